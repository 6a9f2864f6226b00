import pytest

from rsd.report.interval import PERCENT, POINTS, interval


def test_an_interval_is_students_of_the_sample() -> None:
    result = interval([1.0, 2.0, 3.0])
    assert result.mean == pytest.approx(2.0)
    assert result.high == pytest.approx(2.0 + 4.302653 * 1 / 3**0.5, rel=1e-6)
    assert result.low == pytest.approx(4.0 - (result.high or 0), rel=1e-6)


@pytest.mark.parametrize(
    "values", [[2.5], [2.0, 3.0], [-0.67, -0.67], [12.5 - 11.83, 13.5 - 12.83, 14.5 - 13.83], [5.0] * 4]
)
def test_few_or_equal_values_have_no_interval(values: list[float]) -> None:
    assert interval(values)[1:] == (None, None, len(values))


def test_an_interval_stays_where_values_can_lie() -> None:
    assert interval([90.0, 99.0, 100.0], within=PERCENT).high == 100
    assert interval([0.0, 1.0, 9.0], within=PERCENT).low == 0
    assert interval([-90.0, 60.0, 10.0], within=POINTS)[1:3] == (-100, 100)
