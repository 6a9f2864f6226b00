"""How right the models are on the test split, and how sure of it."""

import math
from collections import Counter
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from rsd.report.charts.style import ERROR, NEUTRAL, data, layered, method_colour, method_order, rounded
from rsd.report.interval import PERCENT, interval
from rsd.report.table import method_name

MAX_CLASSES = 24
RELIABLE_COUNT = 10


def accuracy_side_by_side(models: pd.DataFrame) -> alt.LayerChart:
    """Test top-1 per method: a point per seed, the mean with its 95 % t interval, seeds joined in pairs."""
    methods = method_order(models["method"])
    points = models[["model", "method", "seed", "top1"]].assign(rank=[methods.index(name) for name in models["method"]])
    rows = []
    for method in methods:
        mean, low, high, count = interval(points.loc[points["method"] == method, "top1"], within=PERCENT)
        bounds = {} if low is None else {"low": low, "high": high}
        rows.append({"method": method, "mean": mean, "seeds": count, **bounds})
    means = pd.DataFrame(rows)
    bounds_drawn = [name for name in ("low", "high") if name in means]
    drawn = np.concatenate([points["top1"], *(means[name].dropna() for name in bounds_drawn)])
    margin = max(0.08 * float(drawn.max() - drawn.min()), 0.1)
    scale = alt.Scale(
        domain=[rounded(max(0.0, drawn.min() - margin)), rounded(min(100.0, drawn.max() + margin))], nice=False
    )
    x = alt.X("top1:Q", title="test top-1, %", scale=scale, axis=alt.Axis(grid=True, format=".4~g"))
    y = alt.Y(
        "method:N",
        sort=[method_name(name) for name in methods],
        title=None,
        axis=alt.Axis(labelFontSize=13, labelPadding=12),
    )
    paint = method_colour(methods)

    seeds = alt.Chart(data(points))
    joined = (
        seeds.transform_filter("datum.seed != null && datum.method != 'teacher'")
        .mark_line(color=NEUTRAL, strokeWidth=1, opacity=0.35)
        .encode(x=x, y=y, detail="seed:N", order="rank:Q")
    )
    summary = alt.Chart(data(means))
    layers: list[alt.Chart] = [joined]
    if bounds_drawn:
        layers.append(
            summary.transform_filter("datum.low != null")
            .mark_rule(strokeWidth=7, opacity=0.22, strokeCap="round")
            .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=paint)
        )
    tooltip = [alt.Tooltip("model:N"), alt.Tooltip("top1:Q", title="top-1", format=".2f")]
    layers.append(seeds.mark_circle(size=64, opacity=0.75).encode(x=x, y=y, color=paint, tooltip=tooltip))
    layers.append(
        summary.mark_tick(thickness=2.5, size=26, opacity=1).encode(
            x=alt.X("mean:Q", scale=scale),
            y=y,
            color=paint,
            tooltip=[
                "method:N",
                "seeds:Q",
                *[alt.Tooltip(f"{name}:Q", format=".2f") for name in ["mean", *bounds_drawn]],
            ],
        )
    )
    return layered(*layers, height=52 * len(methods))


def per_class_accuracy(models: pd.DataFrame) -> alt.LayerChart:
    """Accuracy per class, the mean over a method's seeds; the hardest of a distilled student first.

    With more than `MAX_CLASSES` classes only the hardest are drawn.
    """
    rows = [
        {"method": method, "class": name, "accuracy": accuracy}
        for method, classes in zip(models["method"], models["per_class"], strict=True)
        for name, accuracy in classes.items()
    ]
    frame = pd.DataFrame(rows).groupby(["class", "method"], as_index=False, sort=False)["accuracy"].mean()
    methods = method_order(frame["method"])
    hardest = frame[frame["method"] == methods[-1]].sort_values(["accuracy", "class"])["class"].tolist()[:MAX_CLASSES]
    frame = frame[frame["class"].isin(hardest)]
    frame = frame.sort_values("method", key=lambda names: names.map(methods.index), kind="stable")
    # The later a method is drawn the smaller its dot: equal accuracies show as rings.
    frame["dot"] = [150 - 90 * methods.index(name) / max(1, len(methods) - 1) for name in frame["method"]]
    base = alt.Chart(data(frame)).encode(
        y=alt.Y("class:N", sort=hardest, title=None, axis=alt.Axis(labelFontSize=12, labelOverlap=False))
    )
    x = alt.X(
        "accuracy:Q", title="accuracy, %", axis=alt.Axis(grid=True), scale=alt.Scale(zero=False, nice=True, padding=6)
    )
    span = base.mark_rule(color=NEUTRAL, opacity=0.4).encode(
        x=alt.X("min(accuracy):Q", title="accuracy, %"), x2="max(accuracy):Q"
    )
    dots = base.mark_circle(opacity=1).encode(
        x=x,
        size=alt.Size("dot:Q", scale=None, legend=None),
        color=method_colour(methods),
        tooltip=["class:N", "method:N", alt.Tooltip("accuracy:Q", format=".1f")],
    )
    return layered(span, dots, height=24 * len(hardest))


def confusion_matrix(confusion: pd.DataFrame, model: str, classes: Sequence[str]) -> alt.LayerChart:
    """Where one model's answers go: rows are the true classes, the errors stand out.

    Shades are shares of a row; numbers are images. With more than `MAX_CLASSES` classes those with the
    most errors are drawn.
    """
    answers = confusion.loc[confusion["model"] == model, ["actual", "predicted"]].astype(str)
    if len(classes) > MAX_CLASSES:
        wrong = answers[answers["actual"] != answers["predicted"]]
        errors = Counter([*wrong["actual"], *wrong["predicted"]])
        worst = sorted(classes, key=lambda name: -errors[name])[:MAX_CLASSES]
        classes = [name for name in classes if name in worst]
    names, few = list(classes), len(classes) <= 12
    images = Counter(zip(answers["actual"], answers["predicted"], strict=True))
    of_class = Counter(answers["actual"])
    frame = pd.DataFrame(
        [
            {
                "actual": actual,
                "predicted": predicted,
                "images": images[actual, predicted],
                "share": images[actual, predicted] / max(1, of_class[actual]),
                "correct": actual == predicted,
            }
            for actual in names
            for predicted in names
        ]
    )
    worst_share = float(frame.loc[~frame["correct"], "share"].max() or 0.0)
    base = alt.Chart(data(frame)).encode(
        x=alt.X(
            "predicted:N",
            sort=names,
            title="answered" if few else "answered, in the order of the rows",
            axis=alt.Axis(labels=few, labelAngle=0 if max(map(len, names)) < 4 else -40),
        ),
        y=alt.Y("actual:N", sort=names, title="is"),
        tooltip=["actual:N", "predicted:N", "images:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    background = base.mark_rect(color=NEUTRAL, opacity=0.07, stroke=None)
    right = base.transform_filter("datum.correct && datum.images > 0").mark_rect(color=NEUTRAL, opacity=0.3)
    wrong_cells = (
        base.transform_filter("!datum.correct && datum.images > 0")
        .mark_rect(color=ERROR)
        .encode(
            opacity=alt.Opacity(
                "share:Q", scale=alt.Scale(domain=[0, max(worst_share, 1e-6)], range=[0.25, 0.85]), legend=None
            )
        )
    )
    layers = [background, right, wrong_cells]
    if few:
        layers.append(base.transform_filter("datum.images > 0").mark_text().encode(text="images:Q"))
    return layered(*layers, height=(30 if few else 18) * len(names))


def reliability(calibration: pd.DataFrame, *, shipped: str | None = None) -> alt.LayerChart:
    """Accuracy of images over the model's confidence; a calibrated model lies on the diagonal.

    The area of a point is its number of test images. Lines join the points of at least `RELIABLE_COUNT`
    images, for fewer say little; the shipped student's is bold.
    """
    frame = calibration[["model", "method", "confidence", "accuracy", "count"]].copy()
    # Records may hold shares or percent; the axis is percent.
    if float(frame[["confidence", "accuracy"]].max().max()) <= 1.0:
        frame[["confidence", "accuracy"]] *= 100
    frame = frame[frame["count"] > 0].dropna()
    frame["shipped"] = frame["model"] == shipped
    methods = method_order(frame["method"])
    low = max(0.0, 10 * math.floor(float(frame[["confidence", "accuracy"]].min().min()) / 10))
    scale = alt.Scale(domain=[low, 100], nice=False)
    x = alt.X("confidence:Q", title="confidence, %", scale=scale)
    y = alt.Y("accuracy:Q", title="accuracy, %", scale=scale)
    diagonal = (
        alt.Chart(data(pd.DataFrame({"confidence": [low, 100.0], "accuracy": [low, 100.0]})))
        .mark_line(color=NEUTRAL, strokeWidth=1, strokeDash=[2, 3])
        .encode(x=x, y=y)
    )
    base = alt.Chart(data(frame)).encode(x=x, y=y, color=method_colour(methods), detail="model:N")
    bold = alt.condition("datum.shipped", alt.value(2.25), alt.value(1))
    lines = (
        base.transform_filter(f"datum.count >= {RELIABLE_COUNT}")
        .mark_line()
        .encode(strokeWidth=bold, opacity=alt.condition("datum.shipped", alt.value(1), alt.value(0.45)))
    )
    points = base.mark_circle(opacity=0.7).encode(
        size=alt.Size("count:Q", scale=alt.Scale(range=[8, 260]), legend=None),
        tooltip=[
            "model:N",
            "count:Q",
            *[alt.Tooltip(f"{name}:Q", format=".1f") for name in ("confidence", "accuracy")],
        ],
    )
    return layered(diagonal, lines, points, height=320)
