"""Randomness as a pure function of what it is for."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def uniform(seed: int, index: np.ndarray, view: int | np.ndarray, numbers: range) -> np.ndarray:
    """Uniform numbers in [0, 1) for each image, float64 `[B, len(numbers)]`.

    They are a hash, so no order, batch or worker matters, and number k is the same whatever else is asked for. The
    finaliser of SplitMix64 (Steele et al., OOPSLA 2014) is applied after each of the four words.
    """
    views = np.asarray(view, np.uint64)
    words = (seed, index.astype(np.uint64)[:, None], views[..., None], np.array(numbers, np.uint64)[None])
    state = np.zeros((1, 1), np.uint64)
    for word in words:
        state = state + np.uint64(0x9E3779B97F4A7C15) + np.asarray(word, np.uint64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch; a tenth of what it costs to keep and restore them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed would touch a GPU's, too


@contextmanager
def kept() -> Iterator[None]:
    """The global generators of Python, numpy and torch are afterwards what they were before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
