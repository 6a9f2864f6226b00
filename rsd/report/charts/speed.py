"""How fast the exported files run: on one device, over its samples, over minutes, and against accuracy."""

from collections.abc import Iterable, Sequence

import altair as alt
import numpy as np
import pandas as pd

from rsd.measure.budget.choose import BudgetRow, pareto
from rsd.measure.sustained import Window
from rsd.report.charts.cost import front as on_front
from rsd.report.charts.style import NEUTRAL, PRECISION_COLOURS, data, layered, rounded
from rsd.report.table import runs_on, short_runs_on
from rsd.run.records import LatencyRecord

LATENCY_QUANTILES = 200
DEVICE_COLOURS = ("#2b7fc9", "#d17a12", "#159a76", "#c75f93", "#9a7bd0", "#a88a00")


def latency_against_accuracy(rows: pd.DataFrame) -> alt.LayerChart:
    """Each exported file as it runs here: p50 with a whisker to p99, against test top-1; the front of p50 as a line.

    `rows`: precision, runtime, threads, p50_ms, p99_ms (may be missing), accuracy in percent.
    """
    frame = rows.dropna(subset=["p50_ms", "accuracy"])
    frame = frame.assign(series=[short_runs_on(*keys) for keys in zip(frame["runtime"], frame["threads"], strict=True)])
    frame = frame.assign(front=on_front(frame, "p50_ms", "accuracy"))
    names = list(dict.fromkeys(frame["series"]))
    base = alt.Chart(data(frame)).encode(
        y=alt.Y(
            "accuracy:Q",
            title="test top-1, %",
            axis=alt.Axis(format=".4~g", tickCount=4),
            scale=alt.Scale(
                domain=[rounded(frame["accuracy"].min() - 0.5), rounded(min(100.0, frame["accuracy"].max() + 0.5))],
                nice=False,
            ),
        ),
        color=_precision_colour(frame["precision"]),
    )
    # A tail that is many times the median would leave no room for the medians.
    longest = frame[["p50_ms", "p99_ms"]].max().max()
    logarithmic = bool(longest > 8 * frame["p50_ms"].min())
    x = alt.X(
        "p50_ms:Q",
        title=f"latency at batch 1, ms (p50, whisker to p99{'; log' if logarithmic else ''})",
        scale=alt.Scale(type="log", nice=False, padding=12) if logarithmic else alt.Scale(zero=True, nice=True),
        axis=alt.Axis(format=".4~g", labelOverlap=True),
    )
    point = base.mark_point(size=130, filled=True, opacity=1).encode(
        x=x,
        shape=alt.Shape("series:N", title=None, scale=alt.Scale(domain=names), legend=_narrow()),
        tooltip=[
            "precision:N",
            alt.Tooltip("series:N", title="runs on"),
            *[alt.Tooltip(f"{name}:Q", format=".3g") for name in ("p50_ms", "p99_ms")],
            alt.Tooltip("accuracy:Q", format=".2f"),
        ],
    )
    line = (
        base.transform_filter("datum.front")
        .mark_line(interpolate="step-after", strokeWidth=1.5, opacity=0.6)
        .encode(x=x, color=alt.value(NEUTRAL))
    )
    layers = [line, point]
    if frame["p99_ms"].notna().any():
        whisker = base.transform_filter("isValid(datum.p99_ms)").mark_rule(strokeWidth=1.5, opacity=0.6)
        layers.insert(0, whisker.encode(x=x, x2="p99_ms:Q"))
    return layered(*layers, height=240)


def latency_distribution(samples: pd.DataFrame) -> alt.LayerChart:
    """The share of inferences that were done within a time, per file and thread count, from the raw samples.

    `samples`: runtime, precision, threads, nanoseconds. A series of more than `LATENCY_QUANTILES` samples
    is drawn at that many of its quantiles, the slowest sample among them: no sample is drawn at random.
    """
    parts = []
    for keys, group in samples.groupby(["precision", "runtime", "threads"], dropna=False, sort=True):
        precision, runtime, threads = keys
        times = np.sort(group["nanoseconds"].to_numpy(dtype=float)) / 1e6
        count = min(len(times), LATENCY_QUANTILES)
        index = np.linspace(0, len(times) - 1, count).round().astype(int)
        parts.append(
            pd.DataFrame(
                {
                    "precision": precision,
                    "series": short_runs_on(str(runtime), threads),
                    "ms": times[index],
                    "share": (index + 1) / len(times),
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    names = list(dict.fromkeys(frame["series"]))
    logarithmic = bool(frame["ms"].min() > 0 and frame["ms"].max() > 8 * frame["ms"].min())
    curve = (
        alt.Chart(data(frame))
        .mark_line(interpolate="step-after", strokeWidth=1.75)
        .encode(
            x=alt.X(
                "ms:Q",
                title="latency, ms" + (" (log)" if logarithmic else ""),
                scale=alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False, nice=False),
                axis=alt.Axis(format=".4~g", grid=True, labelOverlap=True),
            ),
            y=alt.Y(
                "share:Q",
                title="done within",
                axis=alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 0.99]),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=_precision_colour(frame["precision"]),
            strokeDash=alt.StrokeDash(
                "series:N",
                title=None,
                scale=alt.Scale(domain=names, range=[[1, 0], [5, 4], [1, 3], [8, 3, 1, 3], [10, 4], [2, 2]]),
                legend=_narrow(),
            ),
            tooltip=[
                "precision:N",
                alt.Tooltip("series:N", title="runs on"),
                alt.Tooltip("ms:Q", format=".3g"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    p99 = (
        alt.Chart(data(pd.DataFrame({"share": [0.99]}))).mark_rule(strokeDash=[2, 3], color=NEUTRAL).encode(y="share:Q")
    )
    return layered(p99, curve, height=240)


def latencies(record: LatencyRecord) -> alt.LayerChart:
    """Every measured row at batch 1: its p50, with a line to the p99."""
    rows = [
        {
            "name": f"{row.precision}, {runs_on(row.runtime, row.threads)}",
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


def front(rows: Sequence[BudgetRow]) -> alt.LayerChart:
    """Test accuracy against p99 of the trained students, a colour per device; the front of each is a line."""
    known = [row for row in rows if row.top1 is not None and row.p99_ms is not None]
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
    # Room for the label of the slowest.
    reach = [0.0, rounded(1.4 * max((row.p99_ms or 0.0 for row in known), default=1.0))]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("p99:Q", title="p99 latency at batch 1, ms", scale=alt.Scale(nice=False, domain=reach)),
        y=alt.Y("top1:Q", title="test top-1, %", scale=alt.Scale(zero=False, padding=14)),
        color=alt.Color(
            "device:N",
            title=None,
            scale=alt.Scale(domain=devices, range=colours),
            legend=alt.Legend(labelLimit=320, columns=1),
        ),
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
    label = base.transform_filter("datum.front").mark_text(align="left", dx=8, dy=-8).encode(text="name:N")
    return layered(line, point, label, height=280)


def drift(windows: Sequence[Window]) -> alt.VConcatChart:
    """p50 of each window of a sustained run over its minutes, and p99 below; windows: seconds, p50_ms, p99_ms.

    Each has a scale of its own: beside a p99 that is a hundred times larger no p50 would be seen to drift.
    """
    panels = []
    figures: dict[str, list[float | None]] = {
        "p50": [w["p50_ms"] for w in windows],
        "p99": [w["p99_ms"] for w in windows],
    }
    for (figure, values), paint in zip(figures.items(), DEVICE_COLOURS, strict=False):
        rows = [
            {"minutes": window["seconds"] / 60, "ms": value}
            for window, value in zip(windows, values, strict=True)
            if value is not None
        ]
        if rows:
            line = (
                alt.Chart(alt.InlineData(values=rows))
                .mark_line(strokeWidth=1.5, point=alt.OverlayMarkDef(color=paint), color=paint)
                .encode(
                    x=alt.X("minutes:Q", title="minutes", scale=alt.Scale(zero=True, nice=False)),
                    y=alt.Y("ms:Q", title=f"{figure} at batch 1, ms", scale=alt.Scale(zero=False, padding=10)),
                )
            )
            panels.append(line.properties(width=640, height=170))
    return alt.vconcat(*panels)


def _narrow() -> alt.Legend:
    """Two names beside each other, which a phone has room for."""
    return alt.Legend(columns=2, labelLimit=240)


def _precision_colour(precisions: Iterable[str]) -> alt.Color:
    known = list(PRECISION_COLOURS)
    names = sorted(set(precisions), key=lambda name: (known.index(name) if name in known else len(known), name))
    colours = [PRECISION_COLOURS.get(name, NEUTRAL) for name in names]
    return alt.Color("precision:N", title=None, scale=alt.Scale(domain=names, range=colours))
