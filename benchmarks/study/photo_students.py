"""Real photographs, a teacher from ImageNet with a probe, students from noise: ELPV at 64 x 64, all labels and a tenth.

    python -m benchmarks.study.photographs      # fetches both, once
    python -m benchmarks.study.photo_students   # an hour on busy cores; started again, it runs what is missing

The pairs of conf/pair/photographs, whose probe is fitted to the labelled training images and its regularisation chosen
by cross-validation on them. First the learning rate: for each student the best for *scratch* with all labels, on the
234 validation images, seed 0. Then scratch, KD, RSD and RSD + KD. Rows go to docs/study/photographs_tuning.csv and
docs/study/photographs.csv, one per student; from them comes the table between its marks in docs/few_labels.md.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
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
from rsd.models.make import ModelOptions
from rsd.models.predict import predict
from rsd.report.table import method_name
from rsd.teacher.kinds.probe import Probe

PAGE, FOLDER = Path("docs/few_labels.md"), Path("docs/study")
FILE, TUNING = FOLDER / "photographs.csv", FOLDER / "photographs_tuning.csv"
PAIRS = {"ViT": "lite0-vit", "CNN": "lite0-cnn"}
POSITIVE = "defective"
SHARES = (0.1, 1.0)
METHODS = ("scratch", "kd", "rsd", "rsd+kd")
SEEDS = (0, 1, 2)
RATES = (0.001, 0.002, 0.004)
VIEWS = 20
"""As many as epochs, so that students with a teacher see no view twice, as their scratch twin does not."""


def run(folder: Path, views: int, epochs: int, shares: Sequence[float]) -> None:
    """Train the students that the tables have not."""
    tuning = missing(TUNING, ["student", "rate"], product(PAIRS, RATES))
    order = product([views], [epochs], PAIRS, SEEDS, shares, METHODS)
    training = missing(FILE, ["views", "epochs", "student", "seed", "share", "method"], order)
    if not tuning and not training:
        return
    pairs = {name: read_yaml(Path("conf/pair/photographs") / f"{pair}.yaml") for name, pair in PAIRS.items()}
    students = {name: ModelOptions.model_validate(pair["student"]) for name, pair in pairs.items()}
    images, recipe = Images.prepared("elpv", folder), recipe_of("elpv")
    options = Probe.model_validate(pairs["ViT"]["teacher"])
    start = options.start(images.record)
    store = stored("lite0", start.model, images, recipe, views, start.preprocessing.module())
    lesson = Lesson(images, recipe, store)
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
    for pair in PAIRS:
        for name, rate in tuning:
            if name == pair:
                fresh = lesson.student(students[name], "scratch", 1.0, 0, learning_rate=rate)
                append(TUNING, {"student": name, "rate": rate, "validation_top1": images.top1(fresh, "validation")})
        tried = [row for row in rows(TUNING).to_dict("records") if row["student"] == pair]
        rate = float(max(tried, key=lambda row: row["validation_top1"])["rate"])
        for *_, name, seed, share, method in training:
            if name == pair:
                store.logits = logits[share]
                fresh = lesson.student(students[name], method, share, seed, learning_rate=rate, epochs=epochs)
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
    """Accuracy (average precision) of each method, and what RSD + KD gains in average precision over scratch."""
    head = ["labels", "teacher's probe", "student", "views", "epochs", *map(method_name, METHODS)]
    lines = [[*head, "RSD + KD less scratch, average precision", "95 % interval"]]
    for (labels, name, views, epochs), part in frame.groupby(["labels", "student", "views", "epochs"]):
        first = part.iloc[0]
        by_method = part.pivot(index="seed", columns="method", values="average_precision")
        cells = []
        for method in METHODS:
            own = part[part.method == method]
            cells.append(f"{over_seeds(own.accuracy)} ({over_seeds(own.average_precision)})" if len(own) else "")
        teacher = f"{first.teacher_accuracy:.2f} ({first.teacher_average_precision:.2f})"
        lines.append(
            [f"{labels:,}", teacher, str(name), str(views), str(epochs), *cells, *gain(by_method, "rsd+kd", "scratch")]
        )
    return table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=VIEWS, help="stored views of each image")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the labels")
    arguments = parser.parse_args()
    set_up(ComputeOptions())
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.views, arguments.epochs, arguments.shares)
    part = photo_table(rows(FILE))
    put(PAGE, {"photographs": part})
    print(part)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
