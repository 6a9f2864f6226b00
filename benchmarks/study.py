"""The tables and pictures of docs/study.md, from what the sweep `study` found.

    make study    # python -m pipelines.sweep study, then python -m benchmarks.study; again: what is missing

Writes docs/study/students.csv, a row per student, and from it the tables that stand between marks in docs/study.md.
Pictures go beside it: what the experiments of the sweep hold in out/evaluate/ is read from DVC's cache.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import altair as alt
import dvc.api
import pandas as pd
import vl_convert

from benchmarks.marked import put
from benchmarks.method_pictures import before_and_after
from pipelines.sweep import prepare, read_named
from rsd.errors import UserError
from rsd.files import written_aside
from rsd.report.charts.inside import layer_likeness
from rsd.report.charts.style import METHOD_COLOURS, Figure, svg
from rsd.report.interval import Interval, interval
from rsd.report.table import method_name

NAME = "study"
FOUND, PAGE, FOLDER = Path("out/sweeps") / NAME / "students.csv", Path("docs/study.md"), Path("docs/study")
VARIANTS = {
    "method.rsd.space=logits": "RSD on logits",
    "method.rsd.kappa=0": "RSD, invariance only",
    "method.rsd.aad=none": "RSD without AAD",
    "method.ofa.loss=rsd": "OFA with RSD's losses",
}
"""What a cell sets for its own method, and how the tables call that."""
MAIN = ("KD", "OFA", "RSD")
"""On all pairs."""
SHARE, EPOCHS = "override.data.train_share", "override.recipe.epochs"
CHANNELS = "override.teacher.args.channels"
ALL_IMAGES = 57_000
"""Of Fashion-MNIST's training split, less those of validation."""
USUAL_IMAGES, USUAL_EPOCHS = 11_400, 15
"""Of conf/data/fashion_small.yaml and conf/recipe/fashion_student.yaml."""
WIDTHS = {"cnn": 256, "vit": 128, "mlp": 128}
"""Of the embeddings of the teachers of conf/pair/fashion."""
TWIN = ["pair", "width", "images", "epochs", "seed"]
"""What a student and its scratch twin have in common."""


def read(file: Path) -> pd.DataFrame:
    """A sweep's students.csv; settings stay as they are spelled."""
    settings = [name for name in map(str, pd.read_csv(file, nrows=0)) if name.startswith("method.")]
    return pd.read_csv(file, dtype=dict.fromkeys(settings, str))


def students(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per student from those of a sweep: its twin's columns, method in the tables' words, figures."""
    found = rows.assign(
        width=teacher_widths(rows),
        method=[_called(row) for row in rows.to_dict("records")],
        images=(ALL_IMAGES * pd.to_numeric(rows[SHARE])).fillna(USUAL_IMAGES).round().astype(int),
        epochs=pd.to_numeric(rows[EPOCHS]).fillna(USUAL_EPOCHS).astype(int),
    )
    figures = [name for name in map(str, found) if name == "validation_top1" or name.startswith(("test_", "teacher_"))]
    # The twins of a pair are in each of its cells.
    return found[[*TWIN, "method", *figures, "parameters"]].drop_duplicates([*TWIN, "method"], ignore_index=True)


def teacher_widths(rows: pd.DataFrame) -> list[int]:
    """Of the teacher's embedding: its last stage's channels, where a cell sets them."""
    told = rows[CHANNELS].fillna("") if CHANNELS in rows else [""] * len(rows)
    return [
        int(own.strip("[]").split(",")[-1]) if own else width
        for own, width in zip(told, usual_widths(rows.pair), strict=True)
    ]


def usual_widths(pairs: pd.Series) -> list[int]:
    """Of the teachers' embeddings, where a cell does not set them."""
    return [WIDTHS[pair.rpartition("/")[2].split("-")[0]] for pair in pairs]


def usual(found: pd.DataFrame) -> pd.DataFrame:
    """The students of the main comparison: a fifth of the images, 15 epochs."""
    own = found.width == usual_widths(found.pair)
    return found[own & (found.images == USUAL_IMAGES) & (found.epochs == USUAL_EPOCHS)]


def _called(row: dict[Any, Any]) -> str:
    own = [
        name for setting, name in VARIANTS.items()
        if setting.split(".")[1] == row["method"] and str(row.get(setting.split("=")[0], "")) == setting.split("=")[1]
    ]  # fmt: skip
    return own[0] if own else method_name(row["method"])


def gains(found: pd.DataFrame, figure: str = "test_top1") -> pd.DataFrame:
    """The students that a teacher taught, with `gain` over the scratch twin, whose only difference is the teacher."""
    twins = found[found.method == "scratch"].set_index(TWIN)[figure]
    taught = found[found.method != "scratch"]
    return taught.assign(
        gain=taught[figure].to_numpy() - twins.reindex(pd.MultiIndex.from_frame(taught[TWIN])).to_numpy()
    )


def pair_table(found: pd.DataFrame) -> str:
    """Test top-1 of each pair, and the mean gain over scratch, for the methods that ran on all of them."""
    main = usual(found)
    lines = [["teacher -> student", "teacher", "scratch", *MAIN]]
    for pair, part in main.groupby("pair", sort=False):
        cells = [_mean_and_deviation(part[part.method == method].test_top1) for method in ("scratch", *MAIN)]
        lines.append([pair_name(str(pair)), f"{part.teacher_top1.iloc[0]:.2f}", *cells])
    taught = gains(main)
    of = {method: interval(taught[taught.method == method].gain) for method in MAIN}
    lines.append(["mean gain over scratch", "", "", *(f"**{found.mean:+.2f}**" for found in of.values())])
    lines.append([f"95 % interval, {of['RSD'].seeds} pairs x seeds", "", "", *map(bounds, of.values())])
    by_pair = taught.groupby(["method", "pair"]).gain.mean()
    lines.append([f"95 % interval, {by_pair['RSD'].size} pairs", "", "", *(bounds(interval(by_pair[m])) for m in MAIN)])
    return markdown(lines)


def method_table(found: pd.DataFrame) -> str:
    """Mean gain over scratch of every method on the pairs where all of them ran."""
    main = usual(found)
    counts = main.groupby("pair").method.nunique()
    pairs = [pair for pair in main.pair.unique() if counts[pair] == counts.max()]
    taught = gains(main[main.pair.isin(pairs)])
    order = taught.groupby("method").gain.mean().sort_values(ascending=False).index
    lines = [["method", *map(pair_name, pairs), "mean gain", "95 % interval"]]
    scratch = main[main.method == "scratch"]
    lines.append(["scratch", *(f"{scratch[scratch.pair == pair].test_top1.mean():.2f}" for pair in pairs), "", ""])
    for method in order:
        own = taught[taught.method == method]
        whole = interval(own.gain)
        each = [f"{own[own.pair == pair].gain.mean():+.2f}" for pair in pairs]
        lines.append([method, *each, f"**{whole.mean:+.2f}**", bounds(whole)])
    return markdown(lines)


def direct_table(found: pd.DataFrame) -> str:
    """RSD less each rival, paired by pair and seed: what the gains alone do not tell."""
    taught = gains(usual(found))
    own = taught[taught.method == "RSD"].set_index(["pair", "seed"]).test_top1
    lines = [["RSD less", "pairs x seeds", "mean", "95 % interval"]]
    for method in [name for name in taught.method.unique() if name != "RSD"]:
        other = taught[taught.method == method].set_index(["pair", "seed"]).test_top1
        apart = interval((own.reindex(other.index) - other).dropna())
        lines.append([method, str(apart.seeds), f"{apart.mean:+.2f}", bounds(apart)])
    return markdown(lines)


def aad_table(found: pd.DataFrame) -> str:
    """RSD with and without its AAD under teachers as wide as their students, and the difference."""
    pairs = found[found.method == "RSD without AAD"][["pair", "width"]].drop_duplicates()
    part = found.merge(pairs, on=["pair", "width"])
    lines = [["teacher -> student", "teacher", "scratch", "RSD", "without AAD", "the AAD's part", "95 % interval"]]
    apart = part[part.method == "RSD"].set_index(["pair", "seed"]).test_top1
    apart = apart - part[part.method == "RSD without AAD"].set_index(["pair", "seed"]).test_top1
    for pair, some in part.groupby("pair", sort=False):
        cells = [
            _mean_and_deviation(some[some.method == name].test_top1) for name in ("scratch", "RSD", "RSD without AAD")
        ]
        own = interval(apart[pair])
        lines.append(
            [pair_name(str(pair)), f"{some.teacher_top1.iloc[0]:.2f}", *cells, f"{own.mean:+.2f}", bounds(own)]
        )
    whole = interval(apart)
    lines.append([f"mean, {whole.seeds} pairs x seeds", "", "", "", "", f"**{whole.mean:+.2f}**", bounds(whole)])
    return markdown(lines)


def inside_table(found: pd.DataFrame) -> str:
    """Effective rank of the embeddings, means over the seeds."""
    main = usual(found)
    methods = ["scratch", *MAIN]
    lines = [["teacher -> student", *methods, *(f"r, {method}" for method in methods)]]
    for pair, part in main.groupby("pair", sort=False):
        means = part.groupby("method")[["test_effective_rank", "test_correlation_rms"]].mean()
        ranks = [f"{means.test_effective_rank[method]:.1f}" for method in methods]
        lines.append(
            [pair_name(str(pair)), *ranks, *(f"{means.test_correlation_rms[method]:.3f}" for method in methods)]
        )
    return markdown(lines)


def same_steps(found: pd.DataFrame) -> pd.DataFrame:
    """The students of the pair with several sizes of training set, in as many steps each."""
    own = found.width == usual_widths(found.pair)
    some = found[own & (found.images * found.epochs == USUAL_IMAGES * USUAL_EPOCHS)]
    sizes = some.groupby(["pair", "method"]).images.transform("nunique")
    return some[sizes > 1]


def longer(found: pd.DataFrame) -> pd.DataFrame:
    """The students of the pair that was also trained longer, with those that were not."""
    some = found[(found.images == USUAL_IMAGES) & (found.width == usual_widths(found.pair))]
    lengths = some.groupby(["pair", "method"]).epochs.transform("nunique")
    return some[lengths > 1]


def along_table(part: pd.DataFrame, column: str, title: str) -> str:
    """Test top-1 along a column, and what RSD gains there."""
    methods = [name for name in ("scratch", *MAIN) if name in set(part.method)]
    lines = [[title, "seeds", "teacher", *methods, "gain of RSD", "95 % interval"]]
    for value, some in part.groupby(column):
        taught = gains(some)
        gain = interval(taught[taught.method == "RSD"].gain)
        cells = [_mean_and_deviation(some[some.method == method].test_top1) for method in methods]
        head = [f"{value:,}", str(some.seed.nunique()), f"{some.teacher_top1.iloc[0]:.2f}"]
        lines.append([*head, *cells, f"{gain.mean:+.2f}", bounds(gain)])
    return markdown(lines)


def tables(found: pd.DataFrame) -> dict[str, str]:
    """The parts of the page, by the name of their marks."""
    return {
        "pairs": pair_table(found),
        "methods": method_table(found),
        "direct": direct_table(found),
        "aad": aad_table(found),
        "inside": inside_table(found),
        "sizes": along_table(same_steps(found), "images", "training images"),
        "longer": along_table(longer(found), "epochs", "epochs"),
    }


def gain_chart(found: pd.DataFrame) -> Figure:
    """Every pair's gains: a dot per seed, a bar for the mean."""
    taught = gains(usual(found))
    shown = taught[taught.method.isin(MAIN)].assign(
        pair=[pair_name(pair) for pair in taught[taught.method.isin(MAIN)].pair]
    )
    base = alt.Chart(shown[["pair", "method", "seed", "gain"]]).encode(
        y=alt.Y("pair:N", sort=None, title=None, axis=alt.Axis(labelLimit=300)),
        yOffset=alt.YOffset("method:N", sort=list(MAIN)),
        color=_colours(MAIN),
    )
    title = "gain over the scratch twin, points of test top-1"
    bars = base.mark_bar(opacity=0.35).encode(x=alt.X("mean(gain):Q", title=title))
    return (bars + base.mark_circle(size=45, opacity=1).encode(x=alt.X("gain:Q", title=title))).properties(width=420)


def size_chart(found: pd.DataFrame) -> Figure:
    """Test top-1 against the number of training images."""
    part = same_steps(found)
    methods = [name for name in ("scratch", *MAIN) if name in set(part.method)]
    ticks = alt.Axis(values=sorted(set(part.images)), format=",d")
    base = alt.Chart(part[["images", "method", "seed", "test_top1"]]).encode(
        x=alt.X("images:Q", title="training images", scale=alt.Scale(type="log", nice=False, padding=12), axis=ticks),
        color=_colours(methods),
    )
    scale = alt.Scale(zero=False)
    lines = base.mark_line().encode(y=alt.Y("mean(test_top1):Q", title="test top-1, %", scale=scale))
    dots = base.mark_circle(size=40, opacity=1).encode(y=alt.Y("test_top1:Q", title="test top-1, %", scale=scale))
    return (lines + dots).properties(width=420, height=260)


def rank_chart(found: pd.DataFrame) -> Figure:
    """The effective rank of the embeddings, a dot per seed."""
    main = usual(found)
    methods = ["scratch", *MAIN]
    shown = main[main.method.isin(methods)]
    shown = shown.assign(pair=[pair_name(pair) for pair in shown.pair])
    base = alt.Chart(shown[["pair", "method", "seed", "test_effective_rank"]])
    x = alt.X("test_effective_rank:Q", title="effective rank of the embedding", scale=alt.Scale(zero=False))
    y = alt.Y("pair:N", sort=None, title=None, axis=alt.Axis(labelLimit=300))
    return (
        base.mark_circle(size=60, opacity=0.9)
        .encode(x=x, y=y, color=_colours(methods))
        .properties(width=420, height=220)
    )


def likeness_chart(likeness: pd.DataFrame) -> Figure:
    """The CKA maps of the scratch twin and of the RSD student, side by side."""
    sides = [
        layer_likeness(likeness[likeness.method == method]).properties(width=260, title=method_name(method))
        for method in ("scratch", "rsd")
    ]
    return alt.hconcat(*sides)


def likeness_table(likeness: dict[str, pd.DataFrame], records: dict[str, dict[str, Any]]) -> str:
    """Per pair: CKA of the embeddings and the mean over the layers, scratch and RSD; P before and after."""
    head = ["teacher -> student", "CKA of the embeddings, scratch", "RSD", "mean over all layers, scratch", "RSD"]
    lines = [[*head, "diagonal of P before", "after", "off it before", "after", "a perfect copy"]]
    for pair, table in likeness.items():
        ends = (
            table[(table.student_layer == "embedding") & (table.teacher_layer == "embedding")].set_index("method").cka
        )
        means = table.groupby("method").cka.mean()
        of = records[pair]
        p = [of[when][what] for what in ("diagonal_mean", "off_diagonal_rms") for when in ("before", "after")]
        values = [ends["scratch"], ends["rsd"], means["scratch"], means["rsd"], *p, of["teacher_rms"]]
        lines.append([pair_name(pair), *(f"{value:.2f}" for value in values)])
    return markdown(lines)


def read_inside(root: Path) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, Any]]]:
    """cka.csv and correlation.json of the experiments with the main methods, by pair, from DVC's cache."""
    ready = prepare(NAME, read_named(NAME, root), root)
    likeness, records = {}, {}
    for unit in ready.cells:
        if unit.name in ready.done and unit.values.get("methods") == "[scratch,kd,ofa,rsd]":
            read = partial(dvc.api.read, repo=str(root), rev=unit.name)
            pair = unit.values["pair"]
            likeness[pair] = pd.read_csv(io.StringIO(read("out/evaluate/cka.csv")))
            records[pair] = json.loads(read("out/evaluate/correlation.json"))
    return likeness, records


def _colours(names: Sequence[str]) -> alt.Color:
    colours = {method_name(key): colour for key, colour in METHOD_COLOURS.items()}
    return alt.Color("method:N", title=None, scale=alt.Scale(domain=[*names], range=[colours[name] for name in names]))


def pair_name(name: str) -> str:
    """`fashion/cnn-vit` as the tables have it: CNN -> ViT."""
    teacher, student = name.rpartition("/")[2].split("-")
    names = {"cnn": "CNN", "vit": "ViT", "mlp": "MLP"}
    return f"{names[teacher]} -> {names[student]}"


def _mean_and_deviation(values: pd.Series) -> str:
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def bounds(found: Interval) -> str:
    """An interval in words; nothing for a single value."""
    return "" if found.low is None else f"{found.low:+.2f} to {found.high:+.2f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    head, *rest = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rest])


def save(figure: Figure, path: Path) -> None:
    """The figure as a PNG file, on white."""
    with written_aside(path) as aside:
        aside.write_bytes(vl_convert.svg_to_png(svg(figure), scale=2))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not FOUND.is_file():
        raise UserError(
            f"expected the students of the study in {FOUND}, found none; run python -m pipelines.sweep {NAME}"
        )
    found = students(read(FOUND))
    likeness, records = read_inside(Path())
    FOLDER.mkdir(exist_ok=True)
    with written_aside(FOLDER / "students.csv") as aside:
        found.to_csv(aside, index=False, float_format="%.4f")
    put(PAGE, {**tables(found), "likeness": likeness_table(likeness, records)})
    figures: dict[str, Figure] = {"gains": gain_chart(found), "sizes": size_chart(found), "rank": rank_chart(found)}
    for pair in likeness:
        name = pair.rpartition("/")[2]
        figures |= {f"cka_{name}": likeness_chart(likeness[pair]), f"p_{name}": before_and_after(records[pair])}
    for name, figure in figures.items():
        save(figure, FOLDER / f"{name}.png")
    print(pair_table(found))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
