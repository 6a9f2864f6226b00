"""The sweep `why`: RSD with and without its AAD, on more and fewer images, and trained for longer."""

import altair as alt
import pandas as pd

from benchmarks.marked import table
from benchmarks.study import students as of_study
from benchmarks.study.charts import method_colours
from benchmarks.study.students import MAIN, WIDTHS, teacher_widths
from benchmarks.study.tables import bounds, mean_and_deviation, pair_name
from rsd.report.charts.style import Figure
from rsd.report.interval import interval

SHARE, EPOCHS = "override.data.train_share", "override.recipe.epochs"
ALL_IMAGES = 57_000
"""Of Fashion-MNIST's training split, less those of validation."""
USUAL_IMAGES, USUAL_EPOCHS = 11_400, 15
"""Of conf/data/fashion_small.yaml and conf/recipe/fashion_student.yaml."""
TWIN = ("pair", "width", "images", "epochs", "seed")


def students(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per student: the width of its teacher, its training images and epochs, and what the study's has."""
    rows = rows.reindex(columns=[*rows, *(name for name in (SHARE, EPOCHS) if name not in rows)])
    rows = rows.assign(
        width=teacher_widths(rows),
        images=(ALL_IMAGES * pd.to_numeric(rows[SHARE])).fillna(USUAL_IMAGES).round().astype(int),
        epochs=pd.to_numeric(rows[EPOCHS]).fillna(USUAL_EPOCHS).astype(int),
    )
    return of_study.students(rows, TWIN)


def tables(frame: pd.DataFrame) -> dict[str, str]:
    """The parts of the page, by the name of their marks."""
    return {
        "aad": aad_table(frame),
        "sizes": along_table(same_steps(frame), "images", "training images"),
        "longer": along_table(longer(frame), "epochs", "epochs"),
    }


def aad_table(frame: pd.DataFrame) -> str:
    """RSD with and without its AAD under teachers as wide as their students, and the difference."""
    pairs = frame[frame.method == "RSD without AAD"][["pair", "width"]].drop_duplicates()
    part = frame.merge(pairs, on=["pair", "width"])
    top1 = part.pivot_table(index=["pair", "seed"], columns="method", values="test_top1", sort=False)
    apart = top1["RSD"] - top1["RSD without AAD"]
    lines = [["teacher -> student", "teacher", "scratch", "RSD", "without AAD", "the AAD's part", "95 % interval"]]
    for pair, group in part.groupby("pair", sort=False):
        methods = ("scratch", "RSD", "RSD without AAD")
        cells = [mean_and_deviation(group[group.method == name].test_top1) for name in methods]
        own = interval(apart[pair])
        head = [pair_name(str(pair)), f"{group.teacher_top1.iloc[0]:.2f}"]
        lines.append([*head, *cells, f"{own.mean:+.2f}", bounds(own)])
    whole = interval(apart)
    lines.append([f"mean, {whole.seeds} pairs x seeds", "", "", "", "", f"**{whole.mean:+.2f}**", bounds(whole)])
    return table(lines)


def along_table(part: pd.DataFrame, column: str, title: str) -> str:
    """Test top-1 along a column, and what RSD gains there."""
    methods = [name for name in ("scratch", *MAIN) if name in set(part.method)]
    lines = [[title, "seeds", "teacher", *methods, "gain of RSD", "95 % interval"]]
    for value, group in part.groupby(column):
        with_gain = of_study.gains(group, TWIN)
        gain = interval(with_gain[with_gain.method == "RSD"].gain)
        cells = [mean_and_deviation(group[group.method == method].test_top1) for method in methods]
        head = [f"{value:,}", str(group.seed.nunique()), f"{group.teacher_top1.iloc[0]:.2f}"]
        lines.append([*head, *cells, f"{gain.mean:+.2f}", bounds(gain)])
    return table(lines)


def same_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """The students of the usual teacher with the usual number of steps, on any number of images."""
    own = _usual(frame)
    return own[own.images * own.epochs == USUAL_IMAGES * USUAL_EPOCHS]


def longer(frame: pd.DataFrame) -> pd.DataFrame:
    """The methods that ran for several numbers of epochs with the usual teacher and images."""
    own = _usual(frame)
    group = own[own.images == USUAL_IMAGES]
    lengths = group.groupby(["pair", "method"]).epochs.transform("nunique")
    return group[lengths > 1]


def _usual(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame.width == WIDTHS["cnn"]) & (frame.pair == "fashion/cnn-vit")]


def size_chart(frame: pd.DataFrame) -> Figure:
    """Test top-1 over the count of training images: a line for the means, a dot per seed."""
    part = same_steps(frame)
    methods = [name for name in ("teacher", "scratch", *MAIN) if name in {"teacher", *part.method}]
    teachers = part.drop_duplicates("images").assign(method="teacher", test_top1=lambda rows: rows.teacher_top1)
    data = pd.concat([part, teachers])[["images", "method", "test_top1"]]
    ticks = alt.Axis(values=sorted(data.images.unique()), format=",d")
    base = alt.Chart(data).encode(
        x=alt.X("images:Q", title="training images", scale=alt.Scale(type="log", nice=False, padding=20), axis=ticks),
        color=method_colours(methods),
    )
    title, scale = "test top-1, %", alt.Scale(zero=False)
    lines = base.mark_line().encode(y=alt.Y("mean(test_top1):Q", title=title, scale=scale))
    dots = base.mark_circle(size=45, opacity=0.9).encode(y=alt.Y("test_top1:Q", title=title, scale=scale))
    return (lines + dots).properties(width=420, height=240)
