"""Real photographs, a teacher from ImageNet with a probe, and four students: ELPV, all labels and a tenth.

    python -m benchmarks.study.photographs      # fetches both, once
    python -m benchmarks.study.photo_students   # hours; started again, it runs what is missing

docs/few_labels.md lists the commands that make its rows.

The pairs of conf/pair/photographs, whose probe is fitted to the labelled training images and its regularisation chosen
by cross-validation on them. First the learning rate: for each student the best for *scratch* with all labels, on the
234 validation images, seed 0. Then scratch, KD, RSD and RSD + KD. Rows go to docs/study/photographs_tuning.csv and
docs/study/photographs.csv, one per student; from them comes the table between its marks in docs/few_labels.md.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from benchmarks.marked import put, table
from benchmarks.study.taught import Images, Lesson, append, gain, missing, over_seeds, recipe_of, rows, stored, top1
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.models.predict import predict
from rsd.models.student import StudentOptions
from rsd.report.table import method_name
from rsd.teacher.kinds.probe import Probe

PAGE, FOLDER = Path("docs/few_labels.md"), Path("docs/study")
FILE, TUNING = FOLDER / "photographs.csv", FOLDER / "photographs_tuning.csv"
PAIRS = {"ViT": "lite0-vit", "CNN": "lite0-cnn", "ViT-128": "lite0-vit_128", "Lite0": "lite0-lite0"}
"""Of conf/pair/photographs, by the name that the tables give its student."""
POSITIVE = "defective"
SHARES = (0.1, 1.0)
METHODS = ("scratch", "kd", "rsd", "rsd+kd")
METRICS = ("accuracy", "average_precision")
SEEDS = (0, 1, 2)
FACTORS = (0.5, 1, 2)
"""Of the recipe's learning rate: those that are tried."""


def run(
    name: str, folder: Path, views: int | None, epochs: int | None, shares: Sequence[float], methods: Sequence[str]
) -> None:
    """Train the students of this name that the tables have not."""
    pair = read_yaml(Path("conf/pair/photographs") / f"{PAIRS[name]}.yaml")
    recipe = recipe_of(pair["recipe"])
    views, epochs = views or recipe.epochs, epochs or recipe.epochs
    rates = [recipe.learning_rate * factor for factor in FACTORS]
    tuning = missing(TUNING, ["student", "rate"], product([name], rates))
    order = product([views], [epochs], [name], SEEDS, shares, methods)
    training = missing(FILE, ["views", "epochs", "student", "seed", "share", "method"], order)
    if not tuning and not training:
        return
    images, student = Images.prepared(pair["data"], folder), StudentOptions.model_validate(pair["student"])
    images = replace(images, normalize=student.start(images.record).preprocessing.module())
    options = Probe.model_validate(pair["teacher"])
    start = options.start(images.record)
    store = stored("lite0", start.model, images, recipe, views, start.preprocessing.module())
    lesson = Lesson(images, recipe, store)
    for _, rate in tuning:
        fresh = lesson.student(student, "scratch", 1.0, 0, learning_rate=rate)
        append(TUNING, {"student": name, "rate": rate, "validation_top1": images.top1(fresh, "validation")})
    tried = [row for row in rows(TUNING).to_dict("records") if row["student"] == name]
    rate = float(max(tried, key=lambda row: row["validation_top1"])["rate"])

    test = images.split("test")
    embedding = predict(start.model.eval(), start.preprocessing.module(), test.images, batch_size=64).embedding
    whole = torch.from_numpy(store.embedding.astype(np.float32))
    counts, logits, teachers = {}, {}, {}
    for share in shares:
        few = images.train(share)
        options.fit(start, few, images.split("validation"), workers=0)
        with torch.no_grad():
            probe = start.model.get_classifier()  # type: ignore[operator]
            logits[share] = probe(whole).numpy().astype(np.float16)
            own = scores(probe(embedding), test.labels, test.classes)
        teachers[share] = {f"teacher_{key}": value for key, value in own.items()}
        counts[share] = int((few.labels >= 0).sum())
    for *_, seed, share, method in training:
        store.logits = logits[share]
        fresh = lesson.student(student, method, share, seed, learning_rate=rate, epochs=epochs)
        own = scores(images.logits(fresh, "test"), test.labels, test.classes)
        row = {"student": name, "share": share, "labels": counts[share], "views": views, "epochs": epochs}
        append(FILE, {**row, "method": method, "seed": seed, "rate": rate, **own, **teachers[share]})


def scores(logits: Tensor, labels: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Accuracy, and the average precision of the class `POSITIVE`, in per cent."""
    positive = classes.index(POSITIVE)
    chances = logits.double().softmax(dim=1)[:, positive].numpy()
    return {
        "accuracy": top1(logits, labels),
        "average_precision": 100 * float(average_precision_score(labels == positive, chances)),
    }


def photo_table(frame: pd.DataFrame) -> str:
    """Accuracy (average precision) of each method, and what RSD gains in both over scratch."""
    lines = [["labels", "teacher's probe", "student", "views", "epochs", *map(method_name, METHODS)]]
    for metric in METRICS:
        lines[0] += [f"RSD less scratch, {metric.replace('_', ' ')}", "95 % interval"]
    for (labels, name, views, epochs), part in frame.groupby(["labels", "student", "views", "epochs"]):
        first = part.iloc[0]
        cells = []
        for method in METHODS:
            own = part[part.method == method]
            cells.append(f"{over_seeds(own.accuracy)} ({over_seeds(own.average_precision)})" if len(own) else "")
        for metric in METRICS:
            cells += gain(part.pivot(index="seed", columns="method", values=metric), "rsd", "scratch")
        teacher = f"{first.teacher_accuracy:.2f} ({first.teacher_average_precision:.2f})"
        lines.append([f"{labels:,}", teacher, str(name), str(views), str(epochs), *cells])
    return table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", choices=PAIRS, default=[*PAIRS], help="by their names in the table")
    parser.add_argument("--views", type=int, help="stored views of each image; by default as many as epochs")
    parser.add_argument("--epochs", type=int, help="by default the recipe's")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the labels")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    arguments = parser.parse_args()
    set_up(ComputeOptions())
    for name in arguments.students:
        with tempfile.TemporaryDirectory() as folder:
            run(name, Path(folder), arguments.views, arguments.epochs, arguments.shares, arguments.methods)
    part = photo_table(rows(FILE))
    put(PAGE, {"photographs": part})
    print(part)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
