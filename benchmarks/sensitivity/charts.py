"""The pictures of docs/sensitivity.md."""

import altair as alt
import pandas as pd

from benchmarks.sensitivity.students import CHOSEN_ON, along, grid
from benchmarks.study.tables import pair_name
from rsd.report.charts.style import NEGATIVE, POSITIVE, Figure

GAIN = "gain on validation, points"


def grid_chart(frame: pd.DataFrame) -> Figure:
    """Mean gain over weight and kappa, a panel per pair."""
    part = grid(frame)
    panels = []
    for pair in CHOSEN_ON:
        means = part[part.pair == pair].groupby(["weight", "kappa"], as_index=False).validation_gain.mean()
        reach = float(means.validation_gain.abs().max())
        base = alt.Chart(means).encode(
            x=alt.X("kappa:O", title="kappa", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("weight:O", title="weight", sort="descending"),
        )
        paint = alt.Scale(domain=[-reach, 0, reach], range=[NEGATIVE, "#ffffff", POSITIVE], interpolate="rgb")
        tiles = base.mark_rect().encode(color=alt.Color("validation_gain:Q", scale=paint, legend=None))
        words = base.mark_text(color="black").encode(text=alt.Text("validation_gain:Q", format="+.2f"))
        panels.append((tiles + words).properties(width=260, height=180, title=pair_name(pair)))
    return alt.hconcat(*panels).resolve_scale(color="independent")


def along_chart(frame: pd.DataFrame) -> Figure:
    """Gain over scratch along every setting, a line per pair, a dot per seed."""
    panels = []
    for column in ("weight", "kappa", "gamma", "batch"):
        part = along(frame, column).assign(pair=lambda rows: rows.pair.map(pair_name))
        log = alt.Scale(type="log", nice=False, padding=10)
        scale = alt.Scale(type="symlog", constant=1e-3) if column == "kappa" else log
        ticks = alt.Axis(values=sorted(part[column].unique()), format="~g")
        base = alt.Chart(part[["pair", column, "validation_gain"]]).encode(
            x=alt.X(f"{column}:Q", scale=scale, axis=ticks, title=column),
            color=alt.Color("pair:N", title=None, scale=alt.Scale(range=[POSITIVE, NEGATIVE])),
        )
        lines = base.mark_line().encode(y=alt.Y("mean(validation_gain):Q", title=GAIN))
        dots = base.mark_circle(size=35, opacity=1).encode(y=alt.Y("validation_gain:Q", title=GAIN))
        panels.append((lines + dots).properties(width=260, height=170))
    return alt.vconcat(alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:]))
