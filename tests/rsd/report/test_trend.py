"""Which latencies are slower than usual, and the table that holds them."""

from pathlib import Path

import pytest

from rsd.machine.errors import UserError
from rsd.report import trend
from rsd.report.trend import Point, judge, slower


def points(*p50: float, noisy: tuple[int, ...] = (), model: str = "a") -> list[Point]:
    return [
        Point(f"2026-01-{day + 1:02}", "cpu", model, "fp32", "onnxruntime", 1, ms, None, day in noisy, "abc")
        for day, ms in enumerate(p50)
    ]


@pytest.mark.parametrize(
    ("series", "answers"),
    [
        (points(1, 1, 1.2), 0),  # too few before
        (points(1, 1, 1, 1.2), 1),
        (points(1, 1, 1, 1.09), 0),
        (points(1, 1, 9, 1.2, noisy=(2,)), 0),  # the noisy one does not count
        (points(1, 1, 1, 1.2, noisy=(3,)), 0),
        (points(9, 9, 9, *[1.0] * 7, 1.2), 1),  # what is long past is forgotten
        ([*points(1, 1, 1), *points(1, 1, 1, 1.2, model="b")[3:]], 0),  # another architecture
    ],
)
def test_slowness_is_against_the_median_quiet_run(series: list[Point], answers: int) -> None:
    assert len(slower(judge(series), 0.1)) == answers


def test_a_malformed_history_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latency.csv").write_text("when,p50\nnow,fast\n")

    with pytest.raises(UserError, match="expected latencies in .*latency.csv"):
        trend.append(tmp_path / "latency.csv", points(1))


def test_a_history_comes_back_as_written(tmp_path: Path) -> None:
    series = [*points(1, 2), *points(3, model="")]  # in a workspace without a student's name
    assert trend.append(tmp_path / "latency.csv", series) == series
    assert trend.read(tmp_path / "latency.csv") == series
