"""How far two runs differ in one metric, and how well that is known."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rsd.report.interval import LEAST_SEEDS, UNBOUNDED, Interval, interval


class Difference(NamedTuple):
    """Mean of the other minus mean of the first, with a 95 % interval where there are seeds for one."""

    interval: Interval
    paired: bool
    """Over the seeds that both have; else between the means of unlike seeds (Welch's interval)."""

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves zero out, 0 where it does not or there is none."""
        low, high = self.interval.low, self.interval.high
        return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def difference(first: pd.Series, other: pd.Series, *, within: tuple[float, float] = UNBOUNDED) -> Difference | None:
    """Compare values by seed: paired where at least three seeds agree, by Welch's t interval where they do not.

    Args:
        first: values of the run that others are compared with, the seed as index.
        other: of the other run.
        within: what the difference cannot leave.

    Returns:
        None where one of them has no value.
    """
    if first.empty or other.empty:
        return None
    shared = first.index.intersection(other.index)
    if len(shared) >= LEAST_SEEDS or len(shared) == len(first) == len(other):
        return Difference(interval(other[shared] - first[shared], within=within), paired=True)
    mean, seeds = float(other.mean() - first.mean()), min(len(first), len(other))
    if seeds < LEAST_SEEDS or (np.ptp(first) == 0 and np.ptp(other) == 0):
        return Difference(Interval(mean, None, None, seeds), paired=False)
    bounds = stats.ttest_ind(other, first, equal_var=False).confidence_interval(0.95)
    low, high = (float(bound) for bound in np.clip([bounds.low, bounds.high], *within))
    return Difference(Interval(mean, low, high, seeds), paired=False)
