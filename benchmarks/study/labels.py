"""What images without a label are worth, over the number of labels: Fashion-MNIST, a teacher with images of its own.

    python -m benchmarks.study.labels    # hours on busy cores; started again, it runs what is missing

A CNN of `conf/pair/fashion` has learned from 5,700 labelled images. Its students, a ViT and an MLP half as wide as in
those pairs, have 5,700 others, of which 0.5, 5, 50 or 100 % have a label. First the learning rate: for each student and
number of labels the best of three for *scratch* on the 3,000 validation images, seed 0; all methods get it. Then
scratch, KD, RSD and RSD + KD with three seeds. Rows go to docs/study/labels_tuning.csv and docs/study/labels.csv, one
per student; from them come docs/study/labels.png and the tables between their marks in docs/few_labels.md.
"""

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import altair as alt
import pandas as pd
from torch import nn

from benchmarks.marked import put, table
from benchmarks.study.charts import method_colours, save
from benchmarks.study.tables import bounds, mean_and_deviation
from benchmarks.study.taught import Images, append, recipe_of, stored, student, teacher
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.yaml_file import read_yaml
from rsd.methods import distiller
from rsd.methods.base import Distiller, Setting
from rsd.models.make import ModelOptions
from rsd.report.charts.style import Figure
from rsd.report.interval import interval
from rsd.report.table import method_name
from rsd.training.recipe import Recipe, make_criterion

PAGE, FOLDER = Path("docs/few_labels.md"), Path("docs/study")
FILE, TUNING = FOLDER / "labels.csv", FOLDER / "labels_tuning.csv"
DATA, RECIPE, VIEWS = "fashion_few", "fashion_few", 8
STUDENTS = {"ViT": "fashion/cnn-vit", "MLP": "fashion/cnn-mlp"}
"""The pairs that lend their student; their teacher is the same."""
WIDTH = 32
"""Of the students, half of the pairs': 96 students cost less than an hour of a core."""
SHARES = (0.005, 0.05, 0.5, 1.0)
METHODS = ("scratch", "kd", "rsd", "rsd+kd")
SEEDS = (0, 1, 2)
RATES = (0.002, 0.004, 0.008)


class Study:
    """The images, the teacher and its stored views, from which students are trained."""

    def __init__(self, folder: Path) -> None:
        self.recipe = recipe_of(RECIPE)
        self.pairs = {name: read_yaml(Path("conf/pair") / f"{pair}.yaml") for name, pair in STUDENTS.items()}
        self.images = Images.prepared(DATA, folder)
        of_teacher = self.pairs["ViT"]["teacher"]
        options = ModelOptions(name=of_teacher["name"], args=of_teacher["args"])
        model = teacher("CNN", options, self.images, recipe_of(of_teacher["recipe"]))
        self.teacher_top1 = self.images.top1(model, "test")
        self.store = stored(model, self.images, self.recipe, VIEWS)

    def student(self, name: str, share: float, method: str, seed: int, rate: float) -> nn.Module:
        recipe = self.recipe.model_copy(update={"learning_rate": rate})
        of_pair = self.pairs[name]["student"]
        options = ModelOptions(name=of_pair["name"], args=of_pair["args"] | {"embed_dim": WIDTH})
        setting = Setting(
            teacher_width=int(self.store.embedding.shape[2]), image_count=len(self.images.split("train").labels)
        )
        kind = distiller(method)
        return student(
            options,
            self.images,
            self.images.train(share),
            recipe,
            partial(_task, kind=kind, setting=setting, recipe=recipe),
            (self.store, VIEWS) if kind.needs else None,
            seed,
        )

    def labels(self, share: float) -> int:
        return int((self.images.train(share).labels >= 0).sum())


def _task(fresh: nn.Module, kind: type[Distiller], setting: Setting, recipe: Recipe) -> Distiller:
    return kind(fresh, setting, criterion=make_criterion(recipe))


def run(folder: Path) -> None:
    """Train the students that the tables have not."""
    keys = ["student", "share", "method", "seed"]
    tried, known = (rows(file) for file in (TUNING, FILE))
    to_try = _missing(tried, ["student", "share", "rate"], product(STUDENTS, SHARES, RATES))
    seeds_first = (
        (name, share, method, seed) for seed, share, name, method in product(SEEDS, SHARES, STUDENTS, METHODS)
    )
    to_train = _missing(known, keys, seeds_first)
    if not to_try and not to_train:
        return
    study = Study(folder)
    for name, share, rate in to_try:
        model = study.student(name, share, "scratch", 0, rate)
        top1 = study.images.top1(model, "validation")
        append(TUNING, {"student": name, "share": share, "rate": rate, "validation_top1": top1})
    rates = best_rates(rows(TUNING))
    for name, share, method, seed in to_train:
        model = study.student(name, share, method, seed, rates[name, share])
        row = {
            "student": name, "share": share, "labels": study.labels(share), "method": method, "seed": seed,
            "rate": rates[name, share], "test_top1": study.images.top1(model, "test"),
            "teacher_top1": study.teacher_top1,
        }  # fmt: skip
        append(FILE, row)


def _missing(frame: pd.DataFrame, keys: list[str], wanted: Iterator[tuple]) -> list[tuple]:
    done = set(frame[keys].itertuples(index=False, name=None)) if len(frame) else set()
    return [one for one in wanted if one not in done]


def rows(file: Path) -> pd.DataFrame:
    """The students so far."""
    return pd.read_csv(file) if file.is_file() else pd.DataFrame()


def best_rates(tried: pd.DataFrame) -> dict[tuple[str, float], float]:
    """By student and share of labels: the learning rate with the best validation top-1 of scratch."""
    best = tried.loc[tried.groupby(["student", "share"]).validation_top1.idxmax()]
    return {(row.student, row.share): row.rate for row in best.itertuples()}


def labels_table(frame: pd.DataFrame) -> str:
    """Test top-1 of each method, and what RSD + KD gains over scratch and over KD, paired by seed."""
    head = ["student", "labels", *map(method_name, METHODS)]
    lines = [[*head, "RSD + KD less scratch", "95 % interval", "RSD + KD less KD", "95 % interval"]]
    for (name, labels), part in frame.groupby(["student", "labels"], sort=False):
        by_method = part.pivot(index="seed", columns="method", values="test_top1")
        line = [str(name), f"{labels:,}", *(mean_and_deviation(by_method[method]) for method in METHODS)]
        for other in ("scratch", "kd"):
            gain = interval((by_method["rsd+kd"] - by_method[other]).dropna())
            line += [f"**{gain.mean:+.2f}**", bounds(gain)]
        lines.append(line)
    return table(lines)


def tuning_table(tried: pd.DataFrame) -> str:
    """Validation top-1 of scratch by learning rate; the chosen one in bold."""
    lines = [["student", "labels, %", *(f"{rate:g}" for rate in RATES)]]
    for (name, share), part in tried.groupby(["student", "share"], sort=False):
        by_rate = part.set_index("rate").validation_top1
        cells = [f"{by_rate[rate]:.1f}" for rate in RATES]
        best = RATES.index(float(by_rate.idxmax()))
        cells[best] = f"**{cells[best]}**"
        lines.append([str(name), f"{100 * float(share):g}", *cells])
    return table(lines)


def label_chart(frame: pd.DataFrame) -> Figure:
    """Test top-1 over the number of labels: a line for the means, a band from the least to the most of the seeds."""
    data = frame.assign(method=[method_name(method) for method in frame.method])
    ticks = alt.Axis(values=sorted(data.labels.unique()), format=",d")
    x = alt.X("labels:Q", title="labelled images of 5,700", scale=alt.Scale(type="log", padding=12), axis=ticks)
    colours = method_colours([method_name(method) for method in METHODS])
    scale, title = alt.Scale(zero=False), "test top-1, %"
    panels = []
    for name in STUDENTS:
        base = alt.Chart(data[data.student == name]).encode(x=x, color=colours)
        band = base.mark_area(opacity=0.2).encode(
            y=alt.Y("min(test_top1):Q", title=title, scale=scale), y2="max(test_top1):Q"
        )
        line = base.mark_line(point=True).encode(y=alt.Y("mean(test_top1):Q", title=title, scale=scale))
        teachers = alt.Chart(data[data.student == name]).mark_rule(strokeDash=[4, 4]).encode(y="mean(teacher_top1):Q")
        panels.append((band + line + teachers).properties(width=300, height=240, title=f"{name} student"))
    return alt.hconcat(*panels).resolve_scale(y="shared")


def publish() -> None:
    """The picture and the tables, from the rows alone."""
    frame = rows(FILE)
    put(PAGE, {"labels": labels_table(frame), "rates": tuning_table(rows(TUNING))})
    save(label_chart(frame), FOLDER / "labels.png")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    set_up(ComputeOptions())
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))
    publish()


if __name__ == "__main__":
    main()
