"""A latency record as Markdown and as a plot, and the front of accuracy against p99; `python -m rsd.report.latency`.

python -m rsd.report.latency out/benchmark/latency.json FOLDER    # writes latency.md and latency.svg there
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from pydantic import ValidationError

from rsd.benchmark import Latency, Record
from rsd.budget.choose import Row, pareto
from rsd.device import short_name
from rsd.errors import UserError
from rsd.files import written_aside
from rsd.latency import NOISY_SPREAD, SAMPLES_NEEDED
from rsd.report import charts
from rsd.report.table import milliseconds, size

INK, MUTED, LINE, PAPER = "#1c2128", "#59636e", "#d1d9e0", "#ffffff"
DEVICE_COLOURS = ("#2b7fc9", "#d17a12", "#159a76", "#c75f93", "#9a7bd0", "#a88a00")


def markdown(record: Record) -> str:
    """The record as a table, with what it takes to judge it below."""
    head = ["file", "runs on", "batch", "p50", "p90", "p99", "mean", "CPU time", "images/s", "samples"]
    head += ["cold start", "peak memory", "size"]
    lines = [head, ["---"] * len(head), *[_cells(row) for row in record.rows]]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([table, *[f"- {line}" for line in notes(record)]]) + "\n"


def notes(record: Record) -> list[str]:
    """How it was measured and whether the machine was quiet, in sentences."""
    options, before, after = record.options, record.conditions.get("before", {}), record.conditions.get("after", {})
    said = [
        f"On {short_name(record.device)}; times are per call, all samples kept, none removed. Each row ran for at "
        f"least {options['min_seconds']:g} s and {options['min_samples']} calls (above batch 1: "
        f"{min(options['min_samples'], SAMPLES_NEEDED[90])}) in {options['rounds']} interleaved rounds, each after a "
        "warm-up until two windows agreed within 5 %. A p90 needs 64 samples, a p99 662.",
        f"Cores {_list(before.get('affinity'))}; clock {_list(before.get('clock_mhz'))} MHz before and "
        f"{_list(after.get('clock_mhz'))} after; governor {_list(before.get('governor'))}; load "
        f"{before.get('load', 'unknown')} before and {after.get('load', 'unknown')} after.",
    ]
    measured = [row for row in record.rows if row.status == "measured"]
    if noisy := [row for row in measured if row.noisy]:
        worst = max(noisy, key=lambda row: row.spread or 0.0)
        said.append(
            f"The machine was noisy: the medians of the rounds differ by more than {NOISY_SPREAD:.0%} in {len(noisy)} "
            f"of {len(measured)} rows, by {worst.spread:.0%} at worst ({worst.file}). Measure again on a quiet one."
        )
    if unsettled := [row for row in measured if row.settled is False]:
        said.append(f"The warm-up never settled in {len(unsettled)} of {len(measured)} rows.")
    flags = record.device.get("cpu", {}).get("flags")
    if flags is not None and any(row.precision == "int8" for row in measured):
        found = sorted(set(flags) & INT8_FLAGS)
        which = f"int8 dot products ({', '.join(found)})" if found else "no int8 dot product, so int8 saves memory only"
        said.append(f"This CPU has {which}.")
    return said


INT8_FLAGS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"}


def chart(record: Record) -> alt.LayerChart:
    """Every measured row at batch 1: its p50, with a line to the p99."""
    rows = [
        {
            "name": f"{row.precision}, {_runs_on(row)}",
            "precision": row.precision,
            "p50": row.p50_ms,
            "p99": row.p99_ms,
        }
        for row in record.rows
        if row.status == "measured" and row.batch == 1
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("name:N", sort=[str(row["name"]) for row in rows], title=None, axis=alt.Axis(labelLimit=400)),
        color=alt.Color("precision:N", title=None),
    )
    x = alt.X("p50:Q", title="latency at batch 1, ms (p50, line to p99; log)", scale=alt.Scale(type="log", nice=False))
    line = base.transform_filter("isValid(datum.p99)").mark_rule(strokeWidth=1.5).encode(x=x, x2="p99:Q")
    points = base.mark_point(filled=True, size=110, opacity=1).encode(x=x)
    return layered(line, points, height=24 * len(rows) + 20)


def front(found: Sequence[Row]) -> alt.LayerChart:
    """Test accuracy against p99 of the trained students, a colour per device; the front of each is a line."""
    known = [row for row in found if row.top1 is not None and row.p99_ms is not None]
    devices = list(dict.fromkeys(row.device for row in known))
    best = set(map(id, pareto(known)))
    values = [
        {
            "device": row.device,
            "name": f"{row.name} {row.precision}",
            "p99": row.p99_ms,
            "top1": row.top1,
            "front": id(row) in best,
            "noisy": bool(row.latency.noisy),
        }
        for row in known
    ]
    colours = [DEVICE_COLOURS[i % len(DEVICE_COLOURS)] for i in range(len(devices))]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("p99:Q", title="p99 latency at batch 1, ms", scale=alt.Scale(zero=True)),
        y=alt.Y("top1:Q", title="test top-1, %", scale=alt.Scale(zero=False, padding=14)),
        color=alt.Color("device:N", title=None, scale=alt.Scale(domain=devices, range=colours)),
    )
    line = base.transform_filter("datum.front").mark_line(interpolate="step-after", strokeWidth=1.5)
    point = base.mark_point(filled=True, size=100).encode(
        opacity=alt.condition("datum.front", alt.value(1), alt.value(0.45)),
        tooltip=[
            "name:N",
            "device:N",
            alt.Tooltip("p99:Q", format=".3g"),
            alt.Tooltip("top1:Q", format=".2f"),
            "noisy:N",
        ],
    )
    label = base.mark_text(align="left", dx=8, dy=-8).encode(text="name:N")
    return layered(line, point, label, height=280)


def drift(windows: Sequence[dict[str, Any]]) -> alt.LayerChart:
    """p50 and p99 of each window of a sustained run over its minutes; windows: seconds, p50_ms, p99_ms."""
    values = [
        {"minutes": window["seconds"] / 60, "ms": window[key], "figure": key[:3]}
        for window in windows
        for key in ("p50_ms", "p99_ms")
        if window[key] is not None
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("minutes:Q", title="minutes", scale=alt.Scale(nice=False)),
        y=alt.Y("ms:Q", title="latency at batch 1, ms", scale=alt.Scale(zero=True)),
        color=alt.Color("figure:N", title=None, scale=alt.Scale(range=list(DEVICE_COLOURS[:2]))),
    )
    return layered(base.mark_line(strokeWidth=1.5, point=True), height=260)


def svg(figure: alt.LayerChart) -> str:
    """A chart that stands alone, on white."""
    spec = figure.to_dict(validate=False) | {"width": 640, "background": PAPER}
    spec["config"] = charts.theme(ink=INK, muted=MUTED, line=LINE) | {"background": PAPER, "padding": 12}
    return str(vl_convert.vegalite_to_svg(spec))


def write(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text)


def _cells(row: Latency) -> list[str]:
    first = [f"{row.file} {row.precision}", _runs_on(row), str(row.batch)]
    if row.status != "measured":
        return [*first, row.status, *["-"] * 9]
    tails = []
    for name, needed in SAMPLES_NEEDED.items():
        value = getattr(row, f"p{name}_ms")
        few = f"too few samples ({row.samples} of {needed})"
        tails.append(few if value is None else milliseconds(value))
    tails[-1] += " (noisy)" if row.noisy else ""
    cold = statistics.median(row.cold_start_ms) if row.cold_start_ms else None
    return [
        *first,
        *tails,
        milliseconds(row.mean_ms),
        milliseconds(row.cpu_ms),
        f"{row.images_per_second:,.0f}",
        f"{row.samples:,}",
        milliseconds(cold),
        *("-" if count is None else size(count) for count in (row.peak_memory_bytes, row.file_bytes)),
    ]


def _runs_on(row: Latency) -> str:
    return charts.series(row.runtime, row.threads)


def _list(values: Sequence[Any] | None) -> str:
    if not values:
        return "unknown"
    unique = list(dict.fromkeys(map(str, values)))
    return ", ".join(unique)


def layered(*layers: alt.Chart, height: int) -> alt.LayerChart:
    figure = alt.layer(*layers).properties(width="container", height=height)
    assert isinstance(figure, alt.LayerChart)  # a facet only where a layer is one
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Render a latency record as Markdown and as a plot.")
    parser.add_argument("record", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    try:
        record = Record.model_validate_json(given.record.read_bytes())
    except OSError as error:
        sys.exit(f"error: expected a latency record at {given.record}, found none ({error.strerror}); check the path")
    except ValidationError as error:
        sys.exit(f"error: expected a latency record in {given.record}, found another JSON ({error.errors()[0]['msg']})")
    write(given.folder / "latency.md", markdown(record))
    write(given.folder / "latency.svg", svg(chart(record)))
    print(markdown(record))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
