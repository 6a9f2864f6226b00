"""A mean and how well it is known."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Interval(NamedTuple):
    """A mean and its 95 % Student t interval; the bounds are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def interval(values: Iterable[float]) -> Interval:
    """Mean and 95 % t interval of independent values (for paired gains: of their differences)."""
    sample = np.asarray(list(values), dtype=float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, None, None, len(sample))
    half = float(stdtrit(len(sample) - 1, 0.975) * sample.std(ddof=1) / math.sqrt(len(sample)))
    return Interval(mean, mean - half, mean + half, len(sample))
