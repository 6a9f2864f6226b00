"""What the student's layers and dimensions have in common with the teacher's, and a file's values with fp32's."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from rsd.report.charts.style import NEGATIVE, POSITIVE, PRECISION_COLOURS, data, layered, rounded


def layer_likeness(likeness: pd.DataFrame) -> alt.LayerChart:
    """CKA of one student's layers with its teacher's, the first layers at the lower left, as a heat map.

    The shades always run from 0 to 1, so that any two of these charts may be compared. `likeness`:
    student_layer, teacher_layer, cka (missing where a layer is the same for every image).
    """
    columns = list(dict.fromkeys(likeness["student_layer"]))
    rows = list(dict.fromkeys(likeness["teacher_layer"]))
    base = alt.Chart(data(likeness[["student_layer", "teacher_layer", "cka"]])).encode(
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
    return layered(*layers, height=max(150, min(34 * len(rows), 420)))


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
    shades = alt.Scale(domain=[0, rounded(max(most, 1e-6))], range=[0, 1], clamp=True)
    cells = (
        alt.Chart(data(pd.DataFrame(rows)))
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
    return layered(cells, height=300)


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
