"""A mean and how well it is known."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from rsd.machine.words import counted

LEAST_SEEDS = 3
"""Of fewer values the t interval spans more than any accuracy could, or nothing: it would say nothing true."""
UNBOUNDED = (-math.inf, math.inf)
PERCENT = (0.0, 100.0)
POINTS = (-100.0, 100.0)  # a difference of two percentages


class Interval(NamedTuple):
    """A mean and its 95 % Student t interval; the bounds are None where nothing can be said."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def interval(values: Iterable[float], *, within: tuple[float, float] = UNBOUNDED) -> Interval:
    """Mean and 95 % t interval of independent values (for paired gains: of their differences).

    There are no bounds for fewer than three values, nor for equal ones, whose spread of zero is luck or rounding.

    Args:
        within: what the quantity cannot leave, though its t interval can.
    """
    sample = np.asarray(list(values), dtype=float)
    mean = float(sample.mean())
    if len(sample) < LEAST_SEEDS or np.allclose(sample, sample[0], rtol=1e-9, atol=1e-9):
        return Interval(mean, None, None, len(sample))
    half = float(stdtrit(len(sample) - 1, 0.975) * sample.std(ddof=1) / math.sqrt(len(sample)))
    low, high = (float(bound) for bound in np.clip([mean - half, mean + half], *within))
    return Interval(mean, low, high, len(sample))


def no_interval(seeds: int) -> str:
    """Why there is none, in words."""
    if seeds >= LEAST_SEEDS:
        return f"{seeds} seeds with the same result, so no interval can be given"
    return f"{counted(seeds, 'seed')}, too few for an interval"
