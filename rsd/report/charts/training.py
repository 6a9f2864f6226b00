"""How training went, epoch by epoch."""

import math

import altair as alt
import numpy as np
import pandas as pd

from rsd.report.charts.style import NEUTRAL, data, layered, method_colour, method_order, rounded
from rsd.report.table import method_name

LEARNING_CURVE_POINTS = 200
MOST_LABELS = 5
MOST_ROWS = 3000  # of one chart, over all models; a page holds some twenty of these

# What the history holds beside the loss terms; the chance level is drawn into the curve it belongs to.
_NOT_A_TERM = {"model", "method", "seed", "epoch", "validation_top1", "validation_loss", "off_diagonal_chance"}


def loss_terms(curves: pd.DataFrame) -> list[str]:
    """The columns of the history worth a curve, in its order: the total, its terms, the step's vitals."""
    terms = [name for name in curves.columns if name not in _NOT_A_TERM and bool(curves[name].notna().any())]
    vitals = [name for name in ("gradient_norm", "learning_rate") if name in terms]
    return [name for name in terms if name not in vitals] + vitals


def points_drawn(curves: pd.DataFrame) -> int:
    """Epochs of each model that a curve shows: `LEARNING_CURVE_POINTS`, or fewer where there are many models."""
    return max(20, min(LEARNING_CURVE_POINTS, MOST_ROWS // curves["model"].nunique()))


def learning_curve(curves: pd.DataFrame, column: str, *, title: str = "", height: int = 180) -> alt.LayerChart:
    """One column of the history over the epochs: a thin line per seed, a bold one for a method's mean.

    Long histories keep evenly spaced epochs, the first and the last among them; see `points_drawn`.
    """
    columns = ["model", "method", "epoch", column]
    chance = column == "off_diagonal_rms" and "off_diagonal_chance" in curves
    if chance:
        columns.append("off_diagonal_chance")
    frame = thinned(curves[columns].dropna(subset=[column]), points_drawn(curves))
    values = frame[column]
    # A schedule is known by its shape, which a logarithm would bend.
    logarithmic = column != "learning_rate" and is_wide(values)
    methods = method_order(frame["method"])

    base = alt.Chart(data(frame.rename(columns={column: "value"}))).encode(
        x=alt.X(
            "epoch:Q",
            title="epoch" if title else None,  # a row of small charts says it once
            axis=epoch_axis(frame["epoch"]),
            scale=alt.Scale(nice=False, padding=4),
        )
    )
    y_axis = alt.Axis(
        format="~s" if values.max() >= 1e4 else ".4~g",
        **({"values": decades(values.min(), values.max())} if logarithmic else {"tickCount": 4}),
    )
    y_title = title + (" (log)" if logarithmic else "")
    y = alt.Y(
        "value:Q",
        title=y_title,
        axis=y_axis,
        scale=alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False),
    )
    paint = method_colour(methods)
    seeds = base.mark_line(strokeWidth=1, opacity=0.4).encode(y=y, color=paint, detail="model:N")
    mean = base.mark_line(strokeWidth=2.25).encode(y=alt.Y("mean(value):Q", title=y_title), color=paint)
    layers: list[alt.Chart] = [seeds, mean]
    if chance:
        layers.append(
            base.mark_line(strokeWidth=1, strokeDash=[2, 3], color=NEUTRAL).encode(y="mean(off_diagonal_chance):Q")
        )
    hover = alt.selection_point(
        name="epoch_at", on="pointerover", clear="pointerout", nearest=True, fields=["epoch"], empty=False
    )
    read_off = (
        base.transform_aggregate(mean="mean(value)", groupby=["epoch", "method"])
        .transform_pivot("method", value="mean", groupby=["epoch"])
        .mark_rule(color=NEUTRAL, strokeWidth=1)
        .encode(
            opacity=alt.condition(hover, alt.value(0.6), alt.value(0)),
            tooltip=["epoch:Q", *[alt.Tooltip(f"{method_name(name)}:Q", format=".4~g") for name in methods]],
        )
        .add_params(hover)
    )
    return layered(*layers, read_off, height=height)


def epoch_axis(epochs: pd.Series) -> alt.Axis:
    """Labels at whole epochs: where they are few, Vega would put labels between them, too, and round these."""
    whole = sorted({int(epoch) for epoch in epochs})
    return alt.Axis(format="d", values=whole) if len(whole) <= MOST_LABELS else alt.Axis(format="d", tickMinStep=1)


def thinned(curves: pd.DataFrame, points: int) -> pd.DataFrame:
    """The rows of at most so many epochs, evenly spaced, the first and the last among them."""
    epochs = np.unique(curves["epoch"])
    if len(epochs) <= points:
        return curves
    return curves[curves["epoch"].isin(epochs[np.linspace(0, len(epochs) - 1, points).round().astype(int)])]


def is_wide(values: pd.Series) -> bool:
    """Whether positive values span more than a linear axis shows."""
    return bool(values.min() > 0 and values.max() > 30 * values.min())


def decades(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, with 2 and 5 between them where those are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(ticks) < 3:
        ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return [rounded(tick) for tick in ticks if low <= tick <= high]
