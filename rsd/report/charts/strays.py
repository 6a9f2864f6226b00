"""Where a file of less precision strays from fp32."""

import altair as alt
import pandas as pd

from rsd.report.charts.style import PRECISION_COLOURS, data, layered


def strays_over_depth(rows: pd.DataFrame) -> alt.LayerChart:
    """The error of every value within a file, from the pixels on the left to the logits on the right.

    `rows`: precision, depth (0 to 1), error (share of the value's standard deviation), value, part.
    """
    precisions = list(dict.fromkeys(rows["precision"]))
    paint = alt.Scale(domain=precisions, range=[PRECISION_COLOURS.get(name, "#888888") for name in precisions])
    base = alt.Chart(data(rows.assign(error=100 * rows["error"]))).encode(
        x=alt.X(
            "depth:Q", title="depth: pixels to logits", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(labels=False)
        ),
        y=alt.Y("error:Q", title="error, % of the value's spread", scale=alt.Scale(type="symlog", constant=0.1)),
        color=alt.Color("precision:N", title=None, scale=paint),
        tooltip=["precision:N", "part:N", "value:N", alt.Tooltip("error:Q", title="%", format=".2g")],
    )
    worst = base.transform_joinaggregate(most="max(error)", groupby=["precision"]).transform_filter(
        "datum.error == datum.most"
    )
    names = worst.mark_text(dy=-9, fontSize=10).encode(text="part:N")
    return layered(base.mark_line(strokeWidth=1, opacity=0.5), base.mark_point(size=24, filled=True), names, height=220)
