"""Random numbers as a pure function of seed, image and view."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch


def uniform(seed: int, index: np.ndarray, view: int | np.ndarray, numbers: range) -> np.ndarray:
    """Uniform numbers in [0, 1) for each image, float64 `[B, len(numbers)]`.

    They are a hash of seed, image, view and number, so order, batch and workers do not matter, and number k does not
    depend on which others are asked for. The finaliser of SplitMix64 (Steele et al., OOPSLA 2014) is applied after
    each of the four words.
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


@cache
def _beta_series(alpha: float) -> tuple[float, np.ndarray]:
    """`log(alpha B(alpha, alpha))`, and the coefficients of the series in `beta`."""
    step = np.arange(64 + math.ceil(8 * alpha))
    terms = np.cumprod(np.append(1.0, (2 * alpha + step) / (alpha + 1 + step)))
    return math.log(alpha) + 2 * math.lgamma(alpha) - math.lgamma(2 * alpha), terms


def beta(alpha: float, quantile: np.ndarray) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha), float64 `[B]`: uniform numbers in [0, 1) become draws from it.

    Newton's method in logarithms on `I_x = x^a (1 - x)^a / (a B(a, a)) * F(1, 2a; a + 1; x)` (DLMF 8.17.8), whose
    series converges fast below the median; above it the distribution mirrors.
    """
    constant, terms = _beta_series(alpha)
    goal = np.log(np.clip(np.minimum(quantile, 1 - quantile), np.finfo(float).tiny, None)) + constant
    median = math.log(0.5)
    place = np.minimum(goal / alpha, median)
    for _ in range(6):
        x = np.exp(place)
        series = np.power.outer(x, np.arange(len(terms))) @ terms
        reached = alpha * (place + np.log1p(-x)) + np.log(series)
        place = np.minimum(place - (reached - goal) * (1 - x) * series / alpha, median)
    x = np.exp(place)
    return np.where(quantile > 0.5, 1 - x, x)


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch; saving and restoring them takes ten times as long."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which also seeds GPUs


@contextmanager
def kept() -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch after the block."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
