"""What accuracy costs: the front of the models that none beats in both."""

import altair as alt
import pandas as pd

from rsd.report.charts.style import NEUTRAL, PRECISION_COLOURS, colour, data, layered, rounded


def front(rows: pd.DataFrame, cost: str, value: str) -> pd.Series:
    """Which rows no other beats: none costs less or as much for more `value`, or less for as much."""
    known = rows.dropna(subset=[cost, value]).sort_values([cost, value], ascending=[True, False], kind="stable")
    better = known[value] > known[value].cummax().shift(fill_value=-float("inf"))
    return better.reindex(rows.index, fill_value=False)


def size_against_accuracy(rows: pd.DataFrame) -> alt.LayerChart:
    """Test accuracy against bytes, the front as a line.

    `rows`: name, method (its weights in fp32; missing for an exported file), precision (of an exported file), bytes,
    top1 in per cent.
    """
    frame = rows.assign(
        front=front(rows, "bytes", "top1"),
        kilobytes=rows["bytes"] / 1e3,
        exported=rows["precision"].notna(),
        paint=[
            PRECISION_COLOURS.get(precision, NEUTRAL) if isinstance(precision, str) else colour(str(method))
            for method, precision in zip(rows["method"], rows["precision"], strict=True)
        ],
    ).drop(columns="method")
    span = frame["top1"].max() - frame["top1"].min()
    margin = max(0.15 * span, 0.25)
    # Room for the names above the outermost points.
    reach = [rounded(frame["kilobytes"].min() / 1.5), rounded(1.5 * frame["kilobytes"].max())]
    wide = alt.Scale(type="log", nice=False, domain=reach)
    high = alt.Scale(
        domain=[rounded(frame["top1"].min() - margin), rounded(min(100.0, frame["top1"].max() + margin))], nice=False
    )
    base = alt.Chart(data(frame)).encode(
        x=alt.X("kilobytes:Q", title="size, kB (log)", scale=wide, axis=alt.Axis(format=",~g", labelOverlap=True)),
        y=alt.Y("top1:Q", title="test top-1, %", scale=high, axis=alt.Axis(format=".4~g", tickCount=4)),
    )
    line = base.transform_filter("datum.front").mark_line(
        interpolate="step-after", strokeWidth=1.5, color=NEUTRAL, opacity=0.6
    )
    points = base.mark_point(size=110, filled=True, opacity=1).encode(
        color=alt.Color("paint:N", scale=None),
        shape=alt.Shape("exported:N", scale=alt.Scale(domain=[False, True], range=["circle", "diamond"]), legend=None),
        tooltip=["name:N", alt.Tooltip("kilobytes:Q", title="kB", format=",.0f"), alt.Tooltip("top1:Q", format=".2f")],
    )
    names = base.transform_filter("datum.front").mark_text(dy=-13).encode(text="name:N")
    return layered(line, points, names, height=240)
