import zipfile
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats

from benchmarks.marked import parts
from benchmarks.study import labels, photo_students, photographs, share, two_teachers
from benchmarks.study.taught import Images, append, missing, rows
from rsd.methods.base import Setting
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import Outputs
from rsd.models.student import StudentOptions
from rsd.report.charts.style import svg

ROOT = Path(__file__).parents[2]


@pytest.fixture
def frame():
    noise = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "student": student, "share": portion, "labels": round(5700 * portion), "method": method, "seed": seed,
            "rate": 0.004, "test_top1": noise.uniform(50, 90), "teacher_top1": 89.0,
        }
        for student, portion, method, seed in product(labels.STUDENTS, labels.SHARES, labels.METHODS, labels.SEEDS)
    )  # fmt: skip


def test_gains_over_labels_are_paired_by_seed(frame):
    part = frame[(frame.student == "MLP") & (frame.share == 0.05)].pivot(
        index="seed", columns="method", values="test_top1"
    )
    apart = part["rsd+kd"] - part["kd"]
    low, high = stats.t.interval(0.95, 2, apart.mean(), stats.sem(apart))
    line = next(line for line in labels.labels_table(frame).splitlines() if line.startswith("| MLP | 285 |"))
    assert line.endswith(f"**{apart.mean():+.2f}** | {low:+.2f} to {high:+.2f} |")


def test_the_learning_rate_is_scratchs_best():
    tried = pd.DataFrame({"student": "ViT", "share": 0.5, "rate": labels.RATES, "validation_top1": [70.0, 73.0, 71.0]})
    assert labels.best_rates(tried) == {("ViT", 0.5): 0.004}
    assert labels.tuning_table(tried).splitlines()[-1] == "| ViT | 50 | 70.0 | **73.0** | 71.0 |"


def test_the_picture_has_a_panel_per_student(frame):
    picture = svg(labels.label_chart(frame))
    assert "ViT student" in picture
    assert "MLP student" in picture
    assert "RSD + KD" in picture


def test_a_stopped_study_trains_only_what_is_missing(tmp_path):
    file = tmp_path / "rows.csv"
    cells = [*product(("ViT", "MLP"), (0.05, 1.0), (0, 1))]
    assert missing(file, ["student", "share", "seed"], cells) == cells
    append(file, {"student": "ViT", "share": 1.0, "seed": 1, "top1": 81.0})
    append(file, {"student": "MLP", "share": 0.05, "seed": 0, "top1": 80.0})
    assert len(rows(file)) == 2
    left = missing(file, ["student", "share", "seed"], cells)
    assert left == [one for one in cells if one not in (("ViT", 1.0, 1), ("MLP", 0.05, 0))]


def test_images_hide_labels_as_prepare_does(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    images = Images.prepared("digits_few", tmp_path)
    assert (images.split("train").labels >= 0).all()
    few = images.train(20)
    assert sorted(set(few.labels)) == [-1, *range(10)]
    assert (few.labels >= 0).sum() == 20
    known = few.labels >= 0
    assert (few.labels[known] == images.split("train").labels[known]).all()


def test_a_studys_student_starts_from_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    images = Images.prepared("digits_few", tmp_path)
    options = ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 8]})
    given = create(options, classes=3, image_shape=images.record.image_shape)
    save_file(given.state_dict(), file := tmp_path / "given.safetensors")
    fresh = images.new(StudentOptions(name=options.name, args=options.args, weights=str(file)))
    state = {name: value for name, value in given.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in state.items())
    assert fresh.state_dict()["fc.weight"].shape == (10, 8)


class Constant:
    """A store that says the same of every image."""

    def __init__(self, width, seed):
        draw = np.random.default_rng(seed)
        self.embedding, self.logits = draw.normal(size=(1, 8, width)), draw.normal(size=(1, 8, 3))

    def __call__(self, raw, index, view):
        return Outputs(
            torch.from_numpy(self.embedding[view, index].astype(np.float16)),
            torch.from_numpy(self.logits[view, index].astype(np.float16)),
        )


def test_two_teachers_softened_logits_are_averaged():
    one, other = Constant(4, 0), Constant(6, 1)
    index, view = np.arange(8), np.zeros(8, np.int64)
    both = two_teachers.Together([one, other], [one, other])(torch.empty(0), index, view)
    expected = (
        one(None, index, view).logits.double().softmax(1) + other(None, index, view).logits.double().softmax(1)
    ) / 2
    assert both.embedding.shape == (8, 10)
    torch.testing.assert_close(both.logits.double().softmax(1), expected, rtol=1e-5, atol=1e-6)


def test_a_lone_teacher_is_taught_as_rsd_kd():
    from rsd.methods import distiller

    vit = two_teachers.CASES["digits"].student
    teacher = Constant(4, 0)
    answers = two_teachers.Together([teacher], [teacher])(torch.empty(0), np.arange(8), np.zeros(8, np.int64))
    losses = []
    for kind, options in (
        (two_teachers.SeveralTeachers, two_teachers.TermOptions(weights=(0.1,), widths=(4,))),
        (distiller("rsd+kd"), None),
    ):
        torch.manual_seed(0)
        student = create(ModelOptions(name=vit.name, args=vit.args), classes=3, image_shape=(16, 16, 1))
        task = kind(student, Setting(teacher_width=4), options).train()
        torch.manual_seed(1)
        losses.append(task(torch.randn(8, 1, 16, 16), torch.arange(8) % 3, answers)["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_pages_tables_follow_from_their_rows():
    page = parts((ROOT / labels.PAGE).read_text())
    expected = labels.tables(rows(ROOT / labels.FILE), rows(ROOT / labels.TUNING))
    expected["photographs"] = photo_students.photo_table(rows(ROOT / photo_students.FILE))
    expected["share"] = share.share_table(rows(ROOT / share.FILE))
    expected["teachers"] = two_teachers.teacher_table(rows(ROOT / two_teachers.FILE))
    assert {name: page[name] for name in expected} == expected


def test_average_precision_is_that_of_defects():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.2]])
    own = photo_students.scores(logits, np.array([0, 1, 1, 0]), ["defective", "functional"])
    # By falling chance of a defect: a defect, none, a defect, none.
    assert own == pytest.approx({"accuracy": 50.0, "average_precision": 100 * (1 + 2 / 3) / 2})


def test_the_split_keeps_stretches_of_cells_together(tmp_path):
    with zipfile.ZipFile(tmp_path / "cells.whl", "w") as package:
        lines = [f"images/cell{n:04}.png {1.0 if n % 3 else 1 / 3} mono" for n in range(300)]
        package.writestr("elpv_dataset/data/labels.csv", "\n".join(lines) + "\n")
        content = BytesIO()
        Image.new("L", (300, 300)).save(content, "PNG")
        for n in range(300):
            package.writestr(f"elpv_dataset/data/images/cell{n:04}.png", content.getvalue())
    counts = photographs.write_cells(tmp_path / "cells.whl", tmp_path)
    assert counts == {"train/defective": 120, "train/functional": 60, "test/defective": 80, "test/functional": 40}
    numbers = sorted(int(file.stem[4:]) for file in (tmp_path / "elpv-64" / "test").rglob("*.png"))
    assert numbers == [*range(60, 120), *range(180, 240)]
