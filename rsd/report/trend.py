"""Latency over the months: a table that grows by a record at a time, and what of it has become slower."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import altair as alt
from pydantic import TypeAdapter, ValidationError

from rsd.machine.errors import UserError
from rsd.machine.files import written_aside
from rsd.report.charts.style import layered
from rsd.report.table import runs_on
from rsd.run.records import LatencyRecord

REMEMBERED = 7  # the newest quiet points whose median a point is compared with
LEAST = 3  # fewer quiet points than that judge nothing


@dataclass(frozen=True)
class Point:
    """One file on one runtime, timed once, at batch 1."""

    when: str
    """UTC, ISO 8601."""
    device: str
    model: str
    """The architecture: times of another one are another series."""
    precision: str
    runtime: str
    threads: int | None
    p50_ms: float
    p99_ms: float | None
    noisy: bool
    revision: str

    @property
    def series(self) -> tuple[str, str, str, str, int | None]:
        return self.device, self.model, self.precision, self.runtime, self.threads


_POINT = TypeAdapter(Point)
_MAY_LACK = ("threads", "p99_ms")


@dataclass(frozen=True)
class Judged:
    """The newest point of a series, beside those before it."""

    point: Point
    usual_ms: float | None
    """Median p50 of the quiet points before; None if there are too few."""

    @property
    def change(self) -> float | None:
        """As a share of what is usual; 0.1 is a tenth slower."""
        return None if self.usual_ms is None else self.point.p50_ms / self.usual_ms - 1


def points(record: LatencyRecord, *, when: str, model: str, revision: str) -> list[Point]:
    """The measured rows of `record` at batch 1."""
    return [
        Point(
            when=when,
            device=record.device.full_name,
            model=model,
            revision=revision,
            noisy=bool(row.noisy),
            **row.model_dump(include={"precision", "runtime", "threads", "p50_ms", "p99_ms"}),
        )
        for row in record.rows
        if row.status == "measured" and row.batch == 1 and row.p50_ms is not None
    ]


def read(table: Path) -> list[Point]:
    """The points of `table`, oldest first; none if there is no table yet. Raises UserError for another file."""
    if not table.is_file():
        return []
    try:
        with table.open(newline="") as file:
            return [
                _POINT.validate_python(
                    {key: None if key in _MAY_LACK and not value else value for key, value in row.items()}
                )
                for row in csv.DictReader(file)
            ]
    except ValidationError as error:
        fault = f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}"
        raise UserError(f"expected latencies in {table}, found a line that is none ({fault}); move it away") from error


def append(table: Path, new: Iterable[Point]) -> list[Point]:
    """Add points to `table`, which stays whole at any moment; returns all of them."""
    everything = [*read(table), *new]
    with written_aside(table) as aside, aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Point)])
        writer.writeheader()
        writer.writerows(asdict(point) for point in everything)
    return everything


def judge(everything: Sequence[Point]) -> list[Judged]:
    """Each series' newest point against the quiet ones before it; a noisy one neither judges nor is judged."""
    by_series: dict[tuple[object, ...], list[Point]] = {}
    for point in everything:
        by_series.setdefault(point.series, []).append(point)
    newest = max((point.when for point in everything), default="")
    judgements = []
    for *before, point in by_series.values():
        if point.when != newest:  # a file that is not made any more
            continue
        quiet = [one.p50_ms for one in before if not one.noisy][-REMEMBERED:]
        judgements.append(Judged(point, statistics.median(quiet) if len(quiet) >= LEAST else None))
    return judgements


def slower(judged: Iterable[Judged], margin: float) -> list[Judged]:
    """The quiet points that are slower than usual by more than the share `margin`."""
    return [one for one in judged if not one.point.noisy and one.change is not None and one.change > margin]


def chart(points: Sequence[Point]) -> alt.LayerChart:
    """p50 of every file over time on one device, noisy runs hollow; a colour per precision, a dash per runtime."""
    values = [
        {
            "when": point.when,
            "ms": point.p50_ms,
            "precision": point.precision,
            "series": runs_on(point.runtime, point.threads),
            "noisy": point.noisy,
        }
        for point in points
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("when:T", title=None),
        y=alt.Y("ms:Q", title="p50 at batch 1, ms (log)", scale=alt.Scale(type="log", nice=False, padding=10)),
        color=alt.Color("precision:N", title=None),
        strokeDash=alt.StrokeDash("series:N", title=None, legend=alt.Legend(columns=1, labelLimit=400)),
    )
    line = base.transform_filter("!datum.noisy").mark_line(strokeWidth=1.5)
    quiet = base.transform_filter("!datum.noisy").mark_point(filled=True, size=35, opacity=1)
    noisy = base.transform_filter("datum.noisy").mark_point(filled=False, size=35, opacity=0.6)
    return layered(line, quiet, noisy, height=300)
