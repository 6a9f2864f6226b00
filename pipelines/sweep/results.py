"""The results of a cell, and the table and the plot of a sweep: means and 95 % intervals over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from pipelines.sweep.units import varying
from pipelines.workspace import locked
from rsd.machine.files import written_aside
from rsd.report.charts.style import colour, method_order, svg
from rsd.report.interval import PERCENT, POINTS, Interval, interval
from rsd.run.paths import MissingError, Run
from rsd.run.snapshot import snapshot

KEPT = ("top1", "nll", "ece", "agreement", "effective_rank", "correlation_rms", "parameters")
"""The measurements of `evaluate` that a sweep keeps."""
SPREAD = ("methods", "seeds", "export.method")
"""Params that splitting a grid sets. They are no axes: each student's record has its method and seed."""
LEAST_NUMBERS = 3
"""A param with at least so many values, all numbers, is drawn as an axis."""


def students(folder: Path) -> list[dict[str, object]]:
    """A row for each student of the DVC project in `folder`: method, seed, validation top-1.

    A student that was evaluated has `KEPT` and the teacher's top-1, too, on the test split. Figures of students that
    were trained anew since are left out.
    """
    try:
        known = snapshot(Run.of(folder))
    except MissingError:  # the targets of this cell do not reach the params
        return []
    teacher = known.evaluation and known.evaluation.of("teacher")
    rows = []
    for student in known.students:
        row = {"method": student.method, "seed": student.seed, "validation_top1": student.validation.top1}
        if evaluation := known.evaluation and known.evaluation.of(student.name):
            row |= {f"test_{key}" if key != "parameters" else key: getattr(evaluation, key) for key in KEPT}
            row["teacher_top1"] = teacher.top1 if teacher else None
        rows.append(row)
    return rows


def frame(cells: Sequence[tuple[Mapping[str, str], Sequence[Mapping[str, object]]]]) -> pd.DataFrame:
    """One row per student: the params in which the cells differ, then its record.

    A scratch twin that several cells trained, because methods are spread over them, has one row.
    """
    names = [name for name in varying([values for values, _ in cells]) if name not in SPREAD]
    rows = [
        {name: values.get(name, "") for name in names} | dict(one) for values, students in cells for one in students
    ]
    columns = [*names, "method", "seed"]
    return pd.DataFrame(rows, columns=None if rows else columns).drop_duplicates(subset=columns, ignore_index=True)


def axes(rows: pd.DataFrame) -> list[str]:
    """The params in which the cells differ: the columns before `method`."""
    return list(rows.columns[: rows.columns.get_loc("method")])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per point of the grid and method, with mean, low and high over its seeds.

    For validation and test: top-1 in per cent, and the gain in points over the scratch twin of the same grid point and
    seed. Intervals are 95 % Student t intervals; empty for fewer than three seeds or equal values.
    """
    lines = []
    points = axes(rows)
    for point, part in rows.groupby(points, sort=False, dropna=False) if points else [((), rows)]:
        twins = part[part["method"] == "scratch"].set_index("seed")
        for method in method_order(part["method"]):
            group = part[part["method"] == method].set_index("seed")
            row: dict[str, Any] = {**dict(zip(points, point, strict=True)), "method": method, "seeds": len(group)}
            for split in ("validation", "test"):
                top1 = f"{split}_top1"
                if top1 not in rows:
                    continue
                row |= _columns(top1, group[top1].dropna(), PERCENT)
                paired = group[top1] - twins[top1].reindex(group.index)
                row |= _columns(f"{split}_gain", paired.dropna() if method != "scratch" else paired[:0], POINTS)
            lines.append(row)
    return pd.DataFrame(lines)


def _columns(name: str, values: pd.Series, within: tuple[float, float]) -> dict[str, float | None]:
    known = interval(values, within=within) if len(values) else Interval(float("nan"), None, None, 0)
    return {name: known.mean, f"{name}_low": known.low, f"{name}_high": known.high}


def markdown(table: pd.DataFrame, points: Sequence[str]) -> str:
    """The summary as a Markdown table: validation first, because it is what settings are chosen by."""
    titles = {"validation_top1": "validation top-1 %", "validation_gain": "gain over scratch"}
    titles |= {"test_top1": "test top-1 %", "test_gain": "gain on test"}
    columns = {name: title for name, title in titles.items() if name in table}
    head = [*points, "method", "seeds", *columns.values()]
    lines = [head, ["---"] * len(head)]
    for row in table.to_dict("records"):
        cells = [_cell(row, name, "+.2f" if name.endswith("gain") else ".2f") for name in columns]
        lines.append([*(str(row[name]) for name in points), row["method"], str(row["seeds"]), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def best(table: pd.DataFrame, points: Sequence[str]) -> str:
    """A sentence on the methods and grid points, scratch among them, with the highest mean on validation."""
    rows = table.dropna(subset=["validation_top1"])
    if rows.empty:
        return ""
    ties = rows[np.isclose(rows["validation_top1"], rows["validation_top1"].max(), rtol=0, atol=1e-9)]
    names = [", ".join([row["method"], *(f"{name}={row[name]}" for name in points)]) for row in ties.to_dict("records")]
    equal = f", {len(names)} with the same mean" if len(names) > 1 else ""
    return f"Best on validation{equal}: {'; '.join(names)}. The test split chooses nothing."


def _cell(row: Mapping[Any, Any], name: str, form: str) -> str:
    mean, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(mean):
        return ""
    return f"{mean:{form}}" + ("" if pd.isna(low) else f" ({low:{form}} to {high:{form}})")


def chart(table: pd.DataFrame, points: Sequence[str]) -> alt.Chart | alt.LayerChart | alt.FacetChart:
    """The gain over scratch on validation, or the accuracy where no twin is there: means with their 95 % intervals.

    If a param is a number, it is the x axis, with a panel for each setting of the other params. Else each grid point
    has a row.
    """
    gains = table.dropna(subset=["validation_gain"])
    name, title = "validation_gain", "gain over scratch on validation, points"
    if gains.empty:
        gains, name, title = table, "validation_top1", "validation top-1, %"
    shown = gains[[*points, "method"]].assign(mean=gains[name], low=gains[f"{name}_low"], high=gains[f"{name}_high"])
    numbers = {point: pd.to_numeric(shown[point], errors="coerce") for point in points}
    along = next((p for p, n in numbers.items() if n.notna().all() and n.nunique() >= LEAST_NUMBERS), None)
    shown["setting"] = [
        ", ".join(str(row[p]) for p in points if p != along) or ("all" if along else "") for _, row in shown.iterrows()
    ]
    methods = method_order(shown["method"])
    paint = alt.Color("method:N", scale=alt.Scale(domain=methods, range=[colour(m) for m in methods]), title=None)
    values = alt.Axis(format=".4~g")
    scale = alt.Scale(zero=name == "validation_gain")
    if along is None:
        row = alt.Y("setting:N", sort=None, title=None, axis=alt.Axis(labelLimit=400))
        base = alt.Chart(shown).encode(y=row, yOffset=alt.YOffset("method:N", sort=methods), color=paint)
        bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(x=alt.X("low:Q", title=title), x2="high:Q")
        dots = base.mark_circle(size=70, opacity=1).encode(x=alt.X("mean:Q", title=title, axis=values, scale=scale))
        return (bars + dots).properties(width=420)
    shown["along"] = numbers[along]
    low, high = shown["along"].min(), shown["along"].max()
    wide = alt.Scale(type="log" if low > 0 and high >= 8 * low else "linear", zero=False, padding=10, nice=False)
    ticks = alt.Axis(values=sorted(set(shown["along"])), format="~g", labelOverlap=True)
    base = alt.Chart(shown).encode(x=alt.X("along:Q", title=along, scale=wide, axis=ticks), color=paint)
    y = alt.Y("mean:Q", title=title, axis=values, scale=scale)
    bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    layers = bars + base.mark_line().encode(y=y) + base.mark_circle(size=60, opacity=1).encode(y=y)
    layers = layers.properties(width=320, height=220)
    settings = list(dict.fromkeys(shown["setting"]))
    if len(settings) == 1:
        return layers
    return layers.facet(facet=alt.Facet("setting:N", sort=settings, title=None), columns=3)


def write(folder: Path, rows: pd.DataFrame, missing: Sequence[str]) -> str:
    """Write students.csv, table.csv, table.md, plot.svg and plot.png into `folder`; returns the text of table.md."""
    points = axes(rows)
    table = summary(rows)
    note = "Mean (95 % interval over three seeds or more); gains are paired by seed."
    lines = [markdown(table, points), "", note, ""]
    lines += [best(table, points)] if len(table) else []
    lines += [f"Missing: {', '.join(missing)}."] if missing else []
    text = "\n".join(lines).rstrip() + "\n"
    plot = svg(chart(table, points))
    files = {
        "students.csv": rows.to_csv(index=False).encode(),
        "table.csv": table.to_csv(index=False).encode(),
        "table.md": text.encode(),
        "plot.svg": plot.encode(),
        "plot.png": vl_convert.svg_to_png(plot, scale=2),
    }
    # Two sweeps of one name may end at once, and what one writes aside has a fixed name.
    with locked(folder.with_name(f".{folder.name}.lock"), wait=lambda _: None):
        for name, content in files.items():
            with written_aside(folder / name) as aside:
                aside.write_bytes(content)
    return text
