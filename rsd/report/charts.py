"""Pure functions from the records' data frames to charts; the page around them is `page.py`.

A chart carries its own data, rounded, and no colour of the page: ink, grid and background come from
`theme`, so that one chart serves a dark page, a light one and paper.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
from scipy.special import stdtrit

from rsd.report.table import PRECISIONS, RUNTIMES, method_name

# After Okabe and Ito, of a lightness that keeps 3:1 contrast on white and on near-black alike.
METHOD_COLOURS = {
    "teacher": "#7f8791",
    "scratch": "#d17a12",
    "rsd": "#2b7fc9",
    "kd": "#159a76",
    "dkd": "#c75f93",
    "dist": "#9a7bd0",
    "rkd": "#a88a00",
    "cc": "#3aa0a8",
    "crd": "#d1573b",
    "fitnet": "#8c6d52",
    "ofa": "#6f8f2d",
}
PRECISION_COLOURS = dict(zip(PRECISIONS, ("#14917f", "#9166cc", "#c2528b"), strict=True))
NEUTRAL, ERROR = "#7f8791", "#d1573b"
POSITIVE, NEGATIVE = "#2b7fc9", "#d17a12"

LEARNING_CURVE_POINTS = 200
LATENCY_QUANTILES = 200
MAX_CLASSES = 24
RELIABLE_COUNT = 10

# What the history holds beside the loss terms; the chance level is drawn into the curve it belongs to.
_NOT_A_TERM = {
    "model",
    "method",
    "seed",
    "epoch",
    "validation_top1",
    "validation_loss",
    "off_diagonal_chance",
}


class Interval(NamedTuple):
    """A mean and its 95 % Student t interval; the bounds are None for a single value."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def interval(values: Iterable[float]) -> Interval:
    """Mean and 95 % t interval of independent values (for paired gains: of their differences)."""
    sample = np.asarray(list(values), dtype=float)
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean, None, None, len(sample))
    half = float(stdtrit(len(sample) - 1, 0.975) * sample.std(ddof=1) / math.sqrt(len(sample)))
    return Interval(mean, mean - half, mean + half, len(sample))


def method_order(methods: Iterable[str]) -> list[str]:
    """Teacher, scratch, then the distilled ones: the same order in every chart and table."""
    known = list(METHOD_COLOURS)
    return sorted(set(methods), key=lambda name: (known.index(name) if name in known else len(known), name))


def colour(method: str) -> str:
    return METHOD_COLOURS.get(method, NEUTRAL)


def theme(*, ink: str, muted: str, line: str) -> dict[str, Any]:
    """A Vega-Lite config: colours may be CSS variables, since the page draws SVG."""
    return {
        "background": None,
        "padding": 2,
        "view": {"stroke": None, "continuousHeight": 220, "discreteWidth": 300},
        "axis": {
            "labelColor": muted,
            "titleColor": muted,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "labelPadding": 6,
            "titlePadding": 10,
            "gridColor": line,
            "domain": False,
            "ticks": False,
            "tickCount": 5,
        },
        "axisX": {"grid": False, "domain": True, "domainColor": line, "titleAnchor": "end"},
        "axisY": {
            "titleAngle": 0,
            "titleAlign": "left",
            "titleAnchor": "end",
            "titleBaseline": "bottom",
            "titleX": 0,
            "titleY": -8,
        },
        "legend": {
            "labelColor": ink,
            "titleColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
            "symbolBaseFillColor": muted,
            "symbolBaseStrokeColor": muted,
            "orient": "top",
            "offset": 26,
            "columnPadding": 18,
            "symbolSize": 70,
            "symbolOpacity": 1,
            "layout": {"top": {"anchor": "start", "direction": "vertical", "margin": 6}},
        },
        "text": {"color": ink, "fontSize": 11},
        "rule": {"color": muted},
        "line": {"strokeCap": "round", "strokeJoin": "round"},
    }


def loss_terms(curves: pd.DataFrame) -> list[str]:
    """The columns of the history worth a curve, in its order: the total, its terms, the step's vitals."""
    wanted = [name for name in curves.columns if name not in _NOT_A_TERM and bool(curves[name].notna().any())]
    vitals = [name for name in ("gradient_norm", "learning_rate") if name in wanted]
    return [name for name in wanted if name not in vitals] + vitals


def learning_curve(curves: pd.DataFrame, column: str, *, title: str = "", height: int = 180) -> alt.LayerChart:
    """One column of the history over the epochs: a thin line per seed, a bold one for a method's mean.

    Long histories keep `LEARNING_CURVE_POINTS` evenly spaced epochs, the first and the last among them.
    """
    columns = ["model", "method", "epoch", column]
    chance = column == "off_diagonal_rms" and "off_diagonal_chance" in curves
    if chance:
        columns.append("off_diagonal_chance")
    frame = curves[columns].dropna(subset=[column])
    epochs = np.unique(frame["epoch"].to_numpy())
    if len(epochs) > LEARNING_CURVE_POINTS:
        kept = epochs[np.linspace(0, len(epochs) - 1, LEARNING_CURVE_POINTS).round().astype(int)]
        frame = frame[frame["epoch"].isin(kept)]
    values = frame[column]
    # A schedule is known by its shape, which a logarithm would bend.
    logarithmic = bool(values.min() > 0 and values.max() > 30 * values.min() and column != "learning_rate")
    methods = method_order(frame["method"])

    base = alt.Chart(_data(frame.rename(columns={column: "value"}))).encode(
        x=alt.X(
            "epoch:Q",
            title="epoch" if title else None,  # a row of small charts says it once
            axis=alt.Axis(tickMinStep=1, format="d"),
            scale=alt.Scale(nice=False, padding=4),
        )
    )
    y_axis = alt.Axis(
        format="~s" if values.max() >= 1e4 else ".4~g",
        **({"values": _decades(values.min(), values.max())} if logarithmic else {"tickCount": 4}),
    )
    y_title = title + (" (log)" if logarithmic else "")
    y = alt.Y(
        "value:Q",
        title=y_title,
        axis=y_axis,
        scale=alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False),
    )
    paint = _method_colour(methods)
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
    return _layered(*layers, read_off, height=height)


def accuracy_side_by_side(models: pd.DataFrame) -> alt.LayerChart:
    """Test top-1 per method: a point per seed, the mean with its 95 % t interval, seeds joined in pairs."""
    methods = method_order(models["method"])
    points = models[["model", "method", "seed", "top1"]].assign(rank=[methods.index(name) for name in models["method"]])
    rows = []
    for method in methods:
        mean, low, high, count = interval(points.loc[points["method"] == method, "top1"])
        # A share cannot leave [0, 100], though a t interval of two seeds can.
        bounds = {} if low is None or high is None else {"low": max(low, 0.0), "high": min(high, 100.0)}
        rows.append({"method": method, "mean": mean, "seeds": count, **bounds})
    means = pd.DataFrame(rows)
    bounds_drawn = [name for name in ("low", "high") if name in means]
    extremes = [
        points["top1"].min(),
        points["top1"].max(),
        *(means[name].dropna() for name in bounds_drawn),
    ]
    flat = np.concatenate([np.atleast_1d(np.asarray(value, dtype=float)) for value in extremes])
    margin = max(0.08 * float(flat.max() - flat.min()), 0.1)
    scale = alt.Scale(
        domain=[_round(max(0.0, flat.min() - margin)), _round(min(100.0, flat.max() + margin))], nice=False
    )
    x = alt.X("top1:Q", title="test top-1, %", scale=scale, axis=alt.Axis(grid=True, format=".4~g"))
    y = alt.Y(
        "method:N",
        sort=[method_name(name) for name in methods],
        title=None,
        axis=alt.Axis(labelFontSize=13, labelPadding=12),
    )
    paint = _method_colour(methods)

    seeds = alt.Chart(_data(points))
    joined = (
        seeds.transform_filter("datum.seed != null && datum.method != 'teacher'")
        .mark_line(color=NEUTRAL, strokeWidth=1, opacity=0.35)
        .encode(x=x, y=y, detail="seed:N", order="rank:Q")
    )
    summary = alt.Chart(_data(means))
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
    return _layered(*layers, height=52 * len(methods))


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
    base = alt.Chart(_data(frame)).encode(
        y=alt.Y("class:N", sort=hardest, title=None, axis=alt.Axis(labelFontSize=12, labelOverlap=False)),
    )
    x = alt.X(
        "accuracy:Q",
        title="accuracy, %",
        axis=alt.Axis(grid=True),
        scale=alt.Scale(zero=False, nice=True, padding=6),
    )
    span = base.mark_rule(color=NEUTRAL, opacity=0.4).encode(
        x=alt.X("min(accuracy):Q", title="accuracy, %"), x2="max(accuracy):Q"
    )
    dots = base.mark_circle(opacity=1).encode(
        x=x,
        size=alt.Size("dot:Q", scale=None, legend=None),
        color=_method_colour(methods),
        tooltip=["class:N", "method:N", alt.Tooltip("accuracy:Q", format=".1f")],
    )
    return _layered(span, dots, height=24 * len(hardest))


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
    base = alt.Chart(_data(frame)).encode(
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
                "share:Q",
                scale=alt.Scale(domain=[0, max(worst_share, 1e-6)], range=[0.25, 0.85]),
                legend=None,
            )
        )
    )
    layers = [background, right, wrong_cells]
    if few:
        layers.append(base.transform_filter("datum.images > 0").mark_text().encode(text="images:Q"))
    return _layered(*layers, height=(30 if few else 18) * len(names))


def reliability(calibration: pd.DataFrame, *, shipped: str | None = None) -> alt.LayerChart:
    """Accuracy of the images a model is equally sure of; on the diagonal a model knows what it knows.

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
        alt.Chart(_data(pd.DataFrame({"confidence": [low, 100.0], "accuracy": [low, 100.0]})))
        .mark_line(color=NEUTRAL, strokeWidth=1, strokeDash=[2, 3])
        .encode(x=x, y=y)
    )
    base = alt.Chart(_data(frame)).encode(
        x=x,
        y=y,
        color=_method_colour(methods),
        detail="model:N",
    )
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
    return _layered(diagonal, lines, points, height=320)


def layer_likeness(likeness: pd.DataFrame) -> alt.LayerChart:
    """CKA of one student's layers with its teacher's, the first layers at the lower left, as a heat map.

    The shades always run from 0 to 1, so that any two of these charts may be compared. `likeness`:
    student_layer, teacher_layer, cka (missing where a layer is the same for every image).
    """
    columns = list(dict.fromkeys(likeness["student_layer"]))
    rows = list(dict.fromkeys(likeness["teacher_layer"]))
    base = alt.Chart(_data(likeness[["student_layer", "teacher_layer", "cka"]])).encode(
        x=alt.X(
            "student_layer:N",
            sort=columns,
            title="student's layer",
            axis=alt.Axis(labelAngle=-40, labelOverlap=True, grid=False),
        ),
        y=alt.Y("teacher_layer:N", sort=rows[::-1], title="teacher's layer", axis=alt.Axis(labelOverlap=True)),
        tooltip=["student_layer:N", "teacher_layer:N", alt.Tooltip("cka:Q", title="CKA", format=".3f")],
    )
    shade = alt.Opacity("cka:Q", scale=alt.Scale(domain=[0, 1], range=[0.03, 1], clamp=True), legend=None)
    known = base.transform_filter("isValid(datum.cka)")
    layers = [known.mark_rect(color=POSITIVE).encode(opacity=shade)]
    if max(len(columns), len(rows)) <= 8:
        layers.append(known.mark_text().encode(text=alt.Text("cka:Q", format=".2f")))
    return _layered(*layers, height=max(150, min(34 * len(rows), 420)))


def correlation_matrix(matrix: Sequence[Sequence[float]], *, most: float) -> alt.LayerChart:
    """A matrix of correlations: one colour for each sign, the darker the larger; the first row is on top.

    Args:
        matrix: rows are the teacher's dimensions, columns the student's.
        most: the magnitude of the full colour; the same for charts that are to be compared.
    """
    rows = [
        {"teacher": i, "student": j, "r": round(float(value), 3)}
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
    ]
    shades = alt.Scale(domain=[0, _round(max(most, 1e-6))], range=[0, 1], clamp=True)
    cells = (
        alt.Chart(_data(pd.DataFrame(rows)))
        .mark_rect()
        .encode(
            x=alt.X("student:O", title="student's dimensions", axis=alt.Axis(labels=False, grid=False)),
            y=alt.Y("teacher:O", title="teacher's dimensions", axis=alt.Axis(labels=False)),
            color=alt.condition("datum.r < 0", alt.value(NEGATIVE), alt.value(POSITIVE)),
            opacity=alt.Opacity("magnitude:Q", scale=shades, legend=None),
            tooltip=["teacher:O", "student:O", alt.Tooltip("r:Q", format=".2f")],
        )
        .transform_calculate(magnitude="abs(datum.r)")
    )
    return _layered(cells, height=300)


def latency_against_accuracy(rows: pd.DataFrame) -> alt.LayerChart:
    """Each exported file as it runs here: p50 with a whisker to p99, against test top-1.

    `rows`: precision, runtime, threads, p50_ms, p99_ms (may be missing), accuracy in percent.
    """
    frame = rows.dropna(subset=["p50_ms", "accuracy"])
    frame = frame.assign(series=[_short(*keys) for keys in zip(frame["runtime"], frame["threads"], strict=True)])
    precisions, names = _precision_order(frame["precision"]), list(dict.fromkeys(frame["series"]))
    base = alt.Chart(_data(frame)).encode(
        y=alt.Y(
            "accuracy:Q",
            title="test top-1, %",
            axis=alt.Axis(format=".4~g", tickCount=4),
            scale=alt.Scale(
                domain=[
                    _round(frame["accuracy"].min() - 0.5),
                    _round(min(100.0, frame["accuracy"].max() + 0.5)),
                ],
                nice=False,
            ),
        ),
        color=alt.Color(
            "precision:N",
            title=None,
            scale=alt.Scale(domain=precisions, range=[PRECISION_COLOURS.get(name, NEUTRAL) for name in precisions]),
        ),
    )
    x = alt.X(
        "p50_ms:Q",
        title="latency at batch 1, ms (p50, whisker to p99)",
        scale=alt.Scale(zero=True, nice=True),
    )
    point = base.mark_point(size=130, filled=True, opacity=1).encode(
        x=x,
        shape=alt.Shape("series:N", title=None, scale=alt.Scale(domain=names)),
        tooltip=[
            "precision:N",
            alt.Tooltip("series:N", title="runs on"),
            *[alt.Tooltip(f"{name}:Q", format=".3g") for name in ("p50_ms", "p99_ms")],
            alt.Tooltip("accuracy:Q", format=".2f"),
        ],
    )
    layers = [point]
    if frame["p99_ms"].notna().any():
        whisker = base.transform_filter("isValid(datum.p99_ms)").mark_rule(strokeWidth=1.5, opacity=0.6)
        layers.insert(0, whisker.encode(x=x, x2="p99_ms:Q"))
    return _layered(*layers, height=240)


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
                    "series": _short(str(runtime), threads),
                    "ms": times[index],
                    "share": (index + 1) / len(times),
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    precisions, names = _precision_order(frame["precision"]), list(dict.fromkeys(frame["series"]))
    logarithmic = bool(frame["ms"].min() > 0 and frame["ms"].max() > 8 * frame["ms"].min())
    curve = (
        alt.Chart(_data(frame))
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
            color=alt.Color(
                "precision:N",
                title=None,
                scale=alt.Scale(domain=precisions, range=[PRECISION_COLOURS.get(name, NEUTRAL) for name in precisions]),
            ),
            strokeDash=alt.StrokeDash(
                "series:N",
                title=None,
                scale=alt.Scale(domain=names, range=[[1, 0], [5, 4], [1, 3], [8, 3, 1, 3]]),
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
        alt.Chart(_data(pd.DataFrame({"share": [0.99]})))
        .mark_rule(strokeDash=[2, 3], color=NEUTRAL)
        .encode(y="share:Q")
    )
    return _layered(p99, curve, height=240)


def series(runtime: str, threads: object) -> str:
    """What a file runs on, in words: "ONNX Runtime, 1 thread"; engines have no thread count."""
    name = RUNTIMES.get(runtime, runtime)
    if not isinstance(threads, int | float) or math.isnan(threads):
        return name
    return f"{name}, {int(threads)} thread{'' if int(threads) == 1 else 's'}"


def _short(runtime: str, threads: object) -> str:
    """`series` for a legend: only ONNX Runtime has a thread count."""
    return series(runtime, threads).split(", ")[-1]


def _layered(*layers: alt.Chart, height: int) -> alt.LayerChart:
    """Layers as wide as the figure they stand in."""
    chart = alt.layer(*layers).properties(width="container", height=height)
    assert isinstance(chart, alt.LayerChart)  # a facet only where a layer is one
    return chart


def _method_colour(methods: list[str]) -> alt.Color:
    return alt.Color(
        "method:N",
        legend=None,
        scale=alt.Scale(domain=[method_name(name) for name in methods], range=[colour(name) for name in methods]),
    )


def _decades(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, with 2 and 5 between them where those are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(ticks) < 3:
        ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return [_round(tick) for tick in ticks if low <= tick <= high]


def _precision_order(precisions: Iterable[str]) -> list[str]:
    known = list(PRECISION_COLOURS)
    return sorted(set(precisions), key=lambda name: (known.index(name) if name in known else len(known), name))


def _round(value: float) -> float:
    return float(f"{float(value):.5g}")


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    return _round(value) if isinstance(value, float) else value


def _data(frame: pd.DataFrame) -> alt.InlineData:
    """The frame as the chart's own rows: readable names, five significant digits, null if missing."""
    if "method" in frame:
        frame = frame.assign(method=[method_name(name) for name in frame["method"]])
    rows = [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict(orient="records")]
    return alt.InlineData(values=rows)
