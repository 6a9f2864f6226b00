import pytest

from rsd.report.interval import interval


def test_an_interval_is_students_of_the_sample() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert found.high == pytest.approx(2.0 + 4.302653 * 1 / 3**0.5, rel=1e-6)
    assert found.low == pytest.approx(4.0 - (found.high or 0), rel=1e-6)


def test_one_value_has_no_interval() -> None:
    assert interval([2.5]) == (2.5, None, None, 1)
