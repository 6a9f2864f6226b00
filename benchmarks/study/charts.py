"""The study's pictures."""

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import pandas as pd
import vl_convert

from benchmarks.study.students import MAIN, gains, leads
from benchmarks.study.tables import pair_name
from rsd.machine.files import written_aside
from rsd.report.charts.inside import layer_likeness
from rsd.report.charts.style import METHOD_COLOURS, Figure, svg
from rsd.report.table import method_name


def gain_chart(frame: pd.DataFrame) -> Figure:
    """Every pair's gains: a dot per seed, a bar for the mean."""
    data = gains(frame[frame.method.isin(["scratch", *MAIN])]).assign(pair=lambda rows: rows.pair.map(pair_name))
    base = alt.Chart(data[["pair", "method", "seed", "gain"]]).encode(
        y=alt.Y("pair:N", sort=None, title=None, axis=alt.Axis(labelLimit=300)),
        yOffset=alt.YOffset("method:N", sort=list(MAIN)),
        color=method_colours(MAIN),
    )
    title = "gain over the scratch twin, points of test top-1"
    bars = base.mark_bar(opacity=0.35).encode(x=alt.X("mean(gain):Q", title=title))
    return (bars + base.mark_circle(size=45, opacity=1).encode(x=alt.X("gain:Q", title=title))).properties(width=420)


def lead_chart(frame: pd.DataFrame) -> Figure:
    """Gain over the lead that the teacher has: a dot per pair and method."""
    data = leads(frame).reset_index().assign(pair=lambda rows: rows.pair.map(pair_name))
    base = alt.Chart(data[["pair", "method", "lead", "gain"]]).encode(
        x=alt.X("lead:Q", title="teacher's lead over the scratch twin, points of test top-1"),
        y=alt.Y("gain:Q", title="mean gain over the scratch twin, points"),
        color=method_colours(MAIN),
    )
    names = base.transform_filter(alt.datum.method == "RSD").mark_text(dx=8, align="left", fontSize=10)
    return (base.mark_circle(size=70, opacity=1) + names.encode(text="pair:N")).properties(width=420, height=240)


def rank_chart(frame: pd.DataFrame) -> Figure:
    """The effective rank of the embeddings, a dot per seed."""
    methods = ["scratch", *MAIN]
    data = frame[frame.method.isin(methods)].assign(pair=lambda rows: rows.pair.map(pair_name))
    base = alt.Chart(data[["pair", "method", "seed", "test_effective_rank"]]).mark_circle(size=60, opacity=0.9)
    x = alt.X("test_effective_rank:Q", title="effective rank of the embedding", scale=alt.Scale(zero=False))
    y = alt.Y("pair:N", sort=None, title=None, axis=alt.Axis(labelLimit=300))
    return base.encode(x=x, y=y, color=method_colours(methods)).properties(width=420, height=220)


def likeness_chart(likeness: pd.DataFrame) -> Figure:
    """The CKA maps of the scratch twin and of the RSD student, side by side."""
    sides = [
        layer_likeness(likeness[likeness.method == method]).properties(width=260, title=method_name(method))
        for method in ("scratch", "rsd")
    ]
    return alt.hconcat(*sides)


def method_colours(names: Sequence[str]) -> alt.Color:
    """The report's colours, for methods by the names that the tables give them."""
    colours = {method_name(key): colour for key, colour in METHOD_COLOURS.items()}
    return alt.Color("method:N", title=None, scale=alt.Scale(domain=[*names], range=[colours[name] for name in names]))


def save(figure: Figure, path: Path) -> None:
    """The figure as a PNG file, on white."""
    with written_aside(path) as aside:
        aside.write_bytes(vl_convert.svg_to_png(svg(figure), scale=2))
