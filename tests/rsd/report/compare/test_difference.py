import math

import numpy as np
import pandas as pd
import pytest

from rsd.report.compare.difference import difference


def test_runs_of_the_same_seeds_are_paired() -> None:
    first, other = pd.Series({0: 90.0, 1: 94.0, 2: 92.0}), pd.Series({2: 93.0, 0: 91.5, 1: 94.9})
    change = difference(first, other)
    assert change is not None
    gains = np.array([1.5, 0.9, 1.0])
    half = 4.302652729911275 * gains.std(ddof=1) / math.sqrt(3)  # the 97.5 % point of t with 2 degrees of freedom
    assert change.paired
    assert change.interval == pytest.approx((gains.mean(), gains.mean() - half, gains.mean() + half, 3))
    assert change.sign == 1


def test_three_shared_seeds_are_enough_for_pairs() -> None:
    first = pd.Series({0: 1.0, 1: 2.0, 2: 3.0, 7: 99.0})
    change = difference(first, pd.Series({0: 1.5, 1: 2.7, 2: 3.3, 8: -50.0}))
    assert change is not None
    assert change.paired
    assert change.interval.mean == pytest.approx(0.5)
    assert change.interval.seeds == 3


def test_a_difference_stays_within_its_bounds() -> None:
    change = difference(pd.Series([0.0, 50.0, 9.0]), pd.Series([90.0, 20.0, 99.0]), within=(-100, 100))
    assert change is not None
    assert change.interval.high == 100
    change = difference(pd.Series([0.0, 50.0, 9.0]), pd.Series({3: 90.0, 4: 20.0, 5: 99.0}), within=(-100, 100))
    assert change is not None
    assert not change.paired
    assert change.interval.high == 100


def test_other_seeds_are_compared_by_welchs_interval() -> None:
    first, other = pd.Series({0: 1.0, 1: 2.0, 2: 4.0}), pd.Series({3: 3.0, 4: 7.0, 5: 8.0})
    change = difference(first, other)
    assert change is not None
    parts = [values.var(ddof=1) / len(values) for values in (first, other)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 2)
    # The t quantile by bisection of its distribution, integrated numerically: no library's own t.
    x = np.linspace(-400, 400, 4_000_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    share = np.cumsum(density) / density.sum()
    half = float(x[np.searchsorted(share, 0.975)]) * math.sqrt(sum(parts))
    assert not change.paired
    assert change.interval.mean == pytest.approx(6 - 7 / 3)
    assert change.interval.high == pytest.approx(6 - 7 / 3 + half, rel=2e-2)
    assert change.interval.low == pytest.approx(6 - 7 / 3 - half, rel=2e-2)
    assert change.sign == 0


@pytest.mark.parametrize(
    "seeds", [((0,), (0,)), ((0,), (1,)), ((0, 1), (0, 1)), ((0, 1), (2, 3)), ((0, 1, 2), (3, 4, 5))]
)
def test_few_or_equal_values_have_no_interval(seeds: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    first, other = (pd.Series(dict.fromkeys(part, value)) for part, value in zip(seeds, (1.0, 3.0), strict=True))
    change = difference(first, other)
    assert change is not None
    assert change.interval == (2.0, None, None, len(first))
    assert change.sign == 0
    assert change.paired == (seeds[0] == seeds[1])


def test_nothing_is_compared_with_nothing() -> None:
    assert difference(pd.Series(dtype=float), pd.Series({0: 1.0})) is None
