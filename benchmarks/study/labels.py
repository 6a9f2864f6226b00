"""What images without a label are worth, over the number of labels: Fashion-MNIST, a teacher with images of its own.

    python -m benchmarks.study.labels    # hours on busy cores; started again, it runs what is missing

A CNN of `conf/pair/fashion` has learned from 5,700 labelled images. Its students, a ViT and an MLP half as wide as in
those pairs, have 5,700 others, of which 0.5, 5, 50 or 100 % have a label. First the learning rate: for each student and
number of labels the best for *scratch* on the 3,000 validation images, seed 0; all methods get it. Then scratch, KD,
RSD and RSD + KD with three seeds. Rows go to docs/study/labels_tuning.csv and docs/study/labels.csv, one per student;
from them come docs/study/labels.png and the tables between their marks in docs/few_labels.md.
"""

import tempfile
from itertools import product
from pathlib import Path

import altair as alt
import pandas as pd

from benchmarks.command import command
from benchmarks.marked import put, table
from benchmarks.study.charts import save
from benchmarks.study.taught import Images, Lesson, append, gain, missing, over_seeds, recipe_of, rows, stored, teacher
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.yaml_file import read_yaml
from rsd.models.make import ModelOptions
from rsd.report.charts.style import Figure, colour
from rsd.report.table import method_name

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


def run(folder: Path) -> None:
    """Train the students that the tables have not."""
    tuning = [(name, share) for name, share in product(STUDENTS, SHARES) if next_rate(name, share)]
    order = ((name, share, method, seed) for seed, share, name, method in product(SEEDS, SHARES, STUDENTS, METHODS))
    training = missing(FILE, ["student", "share", "method", "seed"], order)
    if not tuning and not training:
        return
    pairs = {name: read_yaml(Path("conf/pair") / f"{pair}.yaml") for name, pair in STUDENTS.items()}
    images = Images.prepared(DATA, folder)
    of_teacher = pairs["ViT"]["teacher"]
    options = ModelOptions(name=of_teacher["name"], args=of_teacher["args"])
    model = teacher("CNN", options, images, recipe_of(of_teacher["recipe"]))
    recipe, teacher_top1 = recipe_of(RECIPE), images.top1(model, "test")
    lesson = Lesson(images, recipe, stored("CNN", model, images, recipe, VIEWS))
    students = {
        name: ModelOptions(name=pair["student"]["name"], args=pair["student"]["args"] | {"embed_dim": WIDTH})
        for name, pair in pairs.items()
    }
    for name, share in tuning:
        while rate := next_rate(name, share):
            fresh = lesson.student(students[name], "scratch", share, 0, learning_rate=rate)
            top1 = images.top1(fresh, "validation")
            append(TUNING, {"student": name, "share": share, "rate": rate, "validation_top1": top1})
    rates = best_rates(rows(TUNING))
    for name, share, method, seed in training:
        rate = rates[name, share]
        fresh = lesson.student(students[name], method, share, seed, learning_rate=rate)
        row = {"student": name, "share": share, "labels": int((images.train(share).labels >= 0).sum())}
        row |= {"method": method, "seed": seed, "rate": rate, "test_top1": images.top1(fresh, "test")}
        append(FILE, row | {"teacher_top1": teacher_top1})


def next_rate(name: str, share: float) -> float | None:
    """The learning rate to try next: one of `RATES`, then beyond the best while that is at the edge of the tried."""
    top1 = _top1_of(rows(TUNING), name, share)
    if left := [rate for rate in RATES if rate not in top1]:
        return left[0]
    best = max(top1, key=top1.__getitem__)
    return 2 * best if best == max(top1) else best / 2 if best == min(top1) else None


def _top1_of(tried: pd.DataFrame, name: str, share: float) -> dict[float, float]:
    """Validation top-1 of scratch by learning rate."""
    own = tried[(tried.student == name) & (tried.share == share)] if len(tried) else tried
    return {float(row["rate"]): float(row["validation_top1"]) for row in own.to_dict("records")}


def best_rates(tried: pd.DataFrame) -> dict[tuple[str, float], float]:
    """By student and share of labels: the learning rate with the best validation top-1 of scratch."""
    best = tried.loc[tried.groupby(["student", "share"]).validation_top1.idxmax()]
    return {(str(row["student"]), float(row["share"])): float(row["rate"]) for row in best.to_dict("records")}


def tables(frame: pd.DataFrame, tried: pd.DataFrame) -> dict[str, str]:
    """By the name of their marks on the page."""
    return {"labels": labels_table(frame), "rates": tuning_table(tried)}


def labels_table(frame: pd.DataFrame) -> str:
    """Test top-1 of each method, and what RSD + KD gains over scratch and over KD, paired by seed."""
    head = ["student", "labels", *map(method_name, METHODS)]
    lines = [[*head, "RSD + KD less scratch", "95 % interval", "RSD + KD less KD", "95 % interval"]]
    for (name, labels), part in frame.groupby(["student", "labels"], sort=False):
        by_method = part.pivot(index="seed", columns="method", values="test_top1")
        line = [str(name), f"{labels:,}", *(over_seeds(part[part.method == method].test_top1) for method in METHODS)]
        line += gain(by_method, "rsd+kd", "scratch") + gain(by_method, "rsd+kd", "kd")
        lines.append(line)
    return table(lines)


def tuning_table(tried: pd.DataFrame) -> str:
    """Validation top-1 of scratch by learning rate; the chosen one in bold."""
    rates = sorted(set(tried.rate))
    lines = [["student", "labels, %", *(f"{rate:g}" for rate in rates)]]
    for (name, share), best in best_rates(tried).items():
        top1 = _top1_of(tried, name, share)
        cells = {rate: f"{top1[rate]:.1f}" if rate in top1 else "" for rate in rates}
        cells[best] = f"**{cells[best]}**"
        lines.append([name, f"{100 * share:g}", *cells.values()])
    return table(lines)


def label_chart(frame: pd.DataFrame) -> Figure:
    """Test top-1 over the number of labels: a line for the means, a band from the least to the most of the seeds."""
    data = frame.assign(method=[method_name(method) for method in frame.method])
    ticks = alt.Axis(values=sorted(data.labels.unique()), format=",d")
    x = alt.X("labels:Q", title="labelled images of 5,700", scale=alt.Scale(type="log", padding=12), axis=ticks)
    names, hues = [*map(method_name, METHODS)], [*map(colour, METHODS)]
    colours = alt.Color("method:N", title=None, scale=alt.Scale(domain=names, range=hues))
    scale, title = alt.Scale(zero=False), "test top-1, %"
    panels = []
    for name in STUDENTS:
        base = alt.Chart(data[data.student == name]).encode(x=x, color=colours)
        band = base.mark_area(opacity=0.2).encode(
            y=alt.Y("min(test_top1):Q", title=title, scale=scale), y2="max(test_top1):Q"
        )
        line = base.mark_line(point=True).encode(y=alt.Y("mean(test_top1):Q", title=title, scale=scale))
        base = alt.Chart(data[data.student == name]).encode(y="mean(teacher_top1):Q")
        text = base.mark_text(align="left", dx=4, dy=7).encode(x=alt.value(0), text=alt.value("teacher"))
        teachers = base.mark_rule(strokeDash=[4, 4]) + text
        panels.append((band + line + teachers).properties(width=300, height=240, title=f"{name} student"))
    return alt.hconcat(*panels).resolve_scale(y="shared")


def main() -> None:
    set_up(ComputeOptions())
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))
    frame = rows(FILE)
    put(PAGE, tables(frame, rows(TUNING)))
    save(label_chart(frame), FOLDER / "labels.png")


if __name__ == "__main__":
    command(main, __doc__)
