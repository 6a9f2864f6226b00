from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.marked import parts
from benchmarks.study import why
from benchmarks.study.__main__ import FOLDER, PAGE
from benchmarks.study.students import gains, read
from pipelines.sweep import results
from rsd.report.charts.style import svg

ROOT = Path(__file__).parents[2]
NARROW = {"override.teacher.args.channels": "[32,64,128,64]"}


def cell(pair, methods, **values):
    """A cell as the sweep records it; accuracies are noise that depends on the student and its twin's columns."""
    frame = []
    for method, seed in product(["scratch", *methods], (0, 1, 2)):
        own = {name: value for name, value in values.items() if name.startswith((f"method.{method}.", "override."))}
        noise = np.random.default_rng(sum(map(ord, f"{pair}{method}{seed}{own}"))).uniform(80, 85, 2)
        top1 = dict(zip(("validation_top1", "test_top1"), noise, strict=True))
        frame.append({"method": method, "seed": seed, **top1, "teacher_top1": 90.0, "parameters": 100})
    return {"pair": pair, "methods": "[]", **values}, frame


@pytest.fixture
def frame(tmp_path):
    cells = [cell("fashion/cnn-vit", ["kd", "rsd"])]
    for share, epochs in (("0.05", "60"), ("1.0", "3")):
        size = {"override.data.train_share": share, "override.recipe.epochs": epochs}
        cells.append(cell("fashion/cnn-vit", ["kd", "rsd"], **size))
    cells.append(cell("fashion/cnn-vit", ["rsd"], **{"override.recipe.epochs": "60"}))
    for pair, aad in product(("fashion/cnn-vit", "fashion/cnn-mlp"), ("embedding", "none")):
        cells.append(cell(pair, ["rsd"], **NARROW, **{"method.rsd.aad": aad}))
    results.frame(cells).to_csv(tmp_path / "students.csv", index=False)
    return why.students(read(tmp_path / "students.csv"))


def test_every_student_stands_once_beside_its_twin(frame):
    assert not frame.duplicated([*why.TWIN, "method"]).any()
    assert gains(frame, why.TWIN).gain.notna().all()
    assert len(frame) == 3 * (3 + 3 + 3 + 2 + 2 * 3)


def test_the_aads_part_is_rsds_loss_without_it(frame):
    under = frame[frame.width == 64].set_index(["method", "pair", "seed"]).test_top1
    apart = under["RSD"] - under["RSD without AAD"]
    low, high = stats.t.interval(0.95, 5, apart.mean(), stats.sem(apart))
    last = why.aad_table(frame).splitlines()[-1]
    assert last.endswith(f"| **{apart.mean():+.2f}** | {low:+.2f} to {high:+.2f} |")


def test_sizes_share_their_steps_lengths_their_images(frame):
    assert set(why.same_steps(frame).images) == {2_850, 11_400, 57_000}
    assert set(why.same_steps(frame).method) == {"scratch", "KD", "RSD"}
    assert set(why.longer(frame).epochs) == {15, 60}
    assert set(why.longer(frame).images) == {11_400}
    assert set(why.longer(frame).method) == {"scratch", "RSD"}


def test_the_picture_can_be_drawn(frame):
    assert svg(why.size_chart(frame)).startswith("<svg")


def test_the_pages_tables_follow_from_its_students():
    frame = pd.read_csv(ROOT / FOLDER / "why.csv")
    shown = parts((ROOT / PAGE).read_text())
    for name, table in why.tables(frame).items():
        assert shown[name] == table
