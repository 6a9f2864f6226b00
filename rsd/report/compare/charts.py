"""The charts of a comparison: a colour per run, the same in all of them."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from rsd.report.charts.speed import DEVICE_COLOURS
from rsd.report.charts.style import data, layered, method_order
from rsd.report.charts.training import decades, epoch_axis, is_wide, points_drawn, thinned
from rsd.report.compare.run import ComparedRun
from rsd.report.interval import PERCENT, interval
from rsd.report.table import method_name, runs_on


def colours(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """By name, in the order of the runs."""
    return {run.name: DEVICE_COLOURS[i % len(DEVICE_COLOURS)] for i, run in enumerate(runs)}


def accuracy(runs: Sequence[ComparedRun]) -> alt.LayerChart:
    """Test top-1 per method and run: a point per seed, the mean, and its 95 % t interval."""
    methods = method_order(model.method for run in runs for model in run.records.models)
    points: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for method in methods:
        for run in runs:
            values = run.scores(method, "top1")
            if values.empty:
                continue
            line = {"line": f"{method_name(method)} · {run.name}", "run": run.name}
            points += [{**line, "seed": seed, "top1": value} for seed, value in values.items()]
            mean, low, high, seeds = interval(values, within=PERCENT)
            bounds = {} if low is None else {"low": low, "high": high}
            means.append({**line, "mean": mean, "seeds": seeds, **bounds})
    summary = pd.DataFrame(means)
    y = alt.Y("line:N", sort=[str(one["line"]) for one in means], title=None, axis=alt.Axis(labelLimit=220))
    scale = alt.Scale(zero=False, nice=True, padding=8)
    base, single = alt.Chart(data(summary)), alt.Chart(data(pd.DataFrame(points)))
    layers = []
    if "low" in summary:
        band = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=7, opacity=0.22, strokeCap="round")
        layers.append(band.encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=_colour(runs)))
    layers.append(
        single.mark_circle(size=52, opacity=0.75).encode(
            x=alt.X("top1:Q", title="test top-1, %", scale=scale, axis=alt.Axis(grid=True, format=".4~g")),
            y=y,
            color=_colour(runs),
            tooltip=["run:N", "seed:N", alt.Tooltip("top1:Q", title="top-1", format=".2f")],
        )
    )
    at = alt.X("mean:Q", scale=scale)
    layers.append(base.mark_tick(thickness=2.5, size=18, opacity=1).encode(x=at, y=y, color=_colour(runs)))
    return layered(*layers, height=28 * len(means))


def curve(runs: Sequence[ComparedRun], method: str, column: str) -> alt.LayerChart | None:
    """One column of the history of a method: thin lines are seeds, bold ones means; None where no run has it."""
    parts = [
        run.records.curves.loc[run.records.curves["method"] == method].assign(run=run.name)
        for run in runs
        if run.records.curves is not None and column in run.records.curves
    ]
    frame = pd.concat(parts).dropna(subset=[column]) if parts else pd.DataFrame()
    if frame.empty:
        return None
    numbers = frame.groupby(["run", "model"], sort=False).ngroup()  # a name in every row would be most of the page
    frame = frame.assign(model=numbers)[["run", "model", "epoch", column]]
    frame = thinned(frame, points_drawn(frame))
    values = frame[column]
    logarithmic = column != "validation_top1" and is_wide(values)
    title = "log" if logarithmic else ""
    scale = alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False)
    base = alt.Chart(data(frame.rename(columns={column: "value"}))).encode(
        x=alt.X("epoch:Q", title="epoch", axis=epoch_axis(frame["epoch"]), scale=alt.Scale(nice=False)),
        color=_colour(runs),
    )
    ticks = alt.Axis(values=decades(values.min(), values.max())) if logarithmic else alt.Axis(tickCount=5)
    y = alt.Y("value:Q", title=title, scale=scale, axis=ticks)
    seeds = base.mark_line(strokeWidth=1, opacity=0.4).encode(y=y, detail="model:N")
    mean = base.mark_line(strokeWidth=2.25).encode(
        y=alt.Y("mean(value):Q", title=title),
        tooltip=["run:N", "epoch:Q", alt.Tooltip("mean(value):Q", title="mean", format=".4~g")],
    )
    return layered(seeds, mean, height=200)


def latency(runs: Sequence[ComparedRun]) -> alt.LayerChart | None:
    """p50 for one image, with a line to the p99, of every way a file was run; None where nothing was timed."""
    rows = [
        {
            "file": f"{row.precision}, {runs_on(row.runtime, row.threads)}",
            "run": run.name,
            "p50": row.p50_ms,
            "p99": row.p99_ms,
        }
        for run in runs
        for row in run.records.latency
        if row.status == "measured" and row.batch == 1
    ]
    if not rows:
        return None
    files = list(dict.fromkeys(str(row["file"]) for row in rows))
    base = alt.Chart(data(pd.DataFrame(rows))).encode(
        y=alt.Y("file:N", sort=files, title=None, axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("run:N", sort=[run.name for run in runs]),
        color=_colour(runs),
        tooltip=["run:N", "file:N", alt.Tooltip("p50:Q", format=".3g"), alt.Tooltip("p99:Q", format=".3g")],
    )
    x = alt.X(
        "p50:Q",
        title="latency at batch 1, ms (p50, line to p99; log)",
        scale=alt.Scale(type="log", nice=False, padding=10),
        axis=alt.Axis(format=".4~g", labelOverlap=True),
    )
    line = base.transform_filter("isValid(datum.p99)").mark_rule(strokeWidth=1.5, opacity=0.7).encode(x=x, x2="p99:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x=x)
    return layered(line, points, height=(12 * len(runs) + 10) * len(files))


def _colour(runs: Sequence[ComparedRun]) -> alt.Color:
    known = colours(runs)
    return alt.Color("run:N", legend=None, scale=alt.Scale(domain=list(known), range=list(known.values())))
