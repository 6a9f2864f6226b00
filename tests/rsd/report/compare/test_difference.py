import math

import numpy as np
import pandas as pd
import pytest

from rsd.report.compare.difference import difference


def test_runs_of_the_same_seeds_are_paired() -> None:
    first, other = pd.Series({0: 90.0, 1: 94.0, 2: 92.0}), pd.Series({2: 93.0, 0: 91.5, 1: 94.9})
    found = difference(first, other)
    assert found is not None
    gains = np.array([1.5, 0.9, 1.0])
    half = 4.302652729911275 * gains.std(ddof=1) / math.sqrt(3)  # the 97.5 % point of t with 2 degrees of freedom
    assert found.paired
    assert found.interval == pytest.approx((gains.mean(), gains.mean() - half, gains.mean() + half, 3))
    assert found.sign == 1


def test_two_shared_seeds_are_enough_for_pairs() -> None:
    found = difference(pd.Series({0: 1.0, 1: 2.0, 7: 99.0}), pd.Series({0: 1.5, 1: 2.7, 8: -50.0}))
    assert found is not None
    assert found.paired
    assert found.interval.mean == pytest.approx(0.6)
    assert found.interval.seeds == 2


def test_other_seeds_are_compared_by_welchs_interval() -> None:
    first, other = pd.Series({0: 1.0, 1: 2.0, 2: 4.0}), pd.Series({3: 3.0, 4: 7.0})
    found = difference(first, other)
    assert found is not None
    parts = [values.var(ddof=1) / len(values) for values in (first, other)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1)
    # The t quantile by bisection of its distribution, integrated numerically: no library's own t.
    x = np.linspace(-400, 400, 4_000_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    share = np.cumsum(density) / density.sum()
    half = float(x[np.searchsorted(share, 0.975)]) * math.sqrt(sum(parts))
    assert not found.paired
    assert found.interval.mean == pytest.approx(5 - 7 / 3)
    assert found.interval.high == pytest.approx(5 - 7 / 3 + half, rel=2e-2)
    assert found.interval.low == pytest.approx(5 - 7 / 3 - half, rel=2e-2)
    assert found.sign == 0


def test_values_without_variance_differ_exactly() -> None:
    found = difference(pd.Series({0: 1.0, 1: 1.0}), pd.Series({2: 3.0, 3: 3.0}))
    assert found is not None
    assert found.interval == (2.0, 2.0, 2.0, 2)


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_one_value_each_has_no_interval(seeds: tuple[int, int]) -> None:
    found = difference(pd.Series({seeds[0]: 1.0}), pd.Series({seeds[1]: 3.0}))
    assert found is not None
    assert found.interval[:3] == (2.0, None, None)
    assert found.sign == 0
    assert found.paired == (seeds[0] == seeds[1])


def test_nothing_is_compared_with_nothing() -> None:
    assert difference(pd.Series(dtype=float), pd.Series({0: 1.0})) is None
