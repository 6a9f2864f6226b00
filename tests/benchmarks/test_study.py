from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.marked import parts
from benchmarks.study import charts, students, tables
from benchmarks.study.__main__ import FOLDER, PAGE
from pipelines.sweep import results

PAIRS = ["fashion/cnn-vit", "fashion/vit-cnn", "fashion/mlp-cnn"]
ROOT = Path(__file__).parents[2]


def cell(pair, methods, **values):
    """A cell as the sweep records it; accuracies are noise that depends on the student alone."""
    frame = []
    for method, seed in product(["scratch", *methods], (0, 1, 2)):
        own = {name: value for name, value in values.items() if name.startswith(f"method.{method}.")}
        noise = np.random.default_rng(sum(map(ord, f"{pair}{method}{seed}{own}"))).uniform(0, 5, 2)
        frame.append(
            {
                "method": method,
                "seed": seed,
                "validation_top1": 80 + noise[0],
                "test_top1": 80 + noise[1],
                "test_effective_rank": 10.0,
                "test_correlation_rms": 0.3,
                "parameters": 100,
                "teacher_top1": 90.0,
            }
        )
    return {"pair": pair, "methods": "[]", **values}, frame


@pytest.fixture
def rows():
    cells = [cell(pair, ["kd", "ofa", "rsd"]) for pair in PAIRS]
    for pair in PAIRS[1:]:
        cells.append(cell(pair, ["dkd"]))
        cells += [cell(pair, [name.split(".")[1]], **dict([name.split("=")])) for name in students.VARIANTS]
    return results.frame(cells)


@pytest.fixture
def frame(rows, tmp_path):
    rows.to_csv(tmp_path / "students.csv", index=False)
    return students.students(students.read(tmp_path / "students.csv"))


def test_every_student_stands_once_under_its_method(frame):
    assert not frame.duplicated([*students.TWIN, "method"]).any()
    assert set(frame[frame.pair == PAIRS[0]].method) == {"scratch", "KD", "OFA", "RSD"}
    assert set(frame[frame.pair == PAIRS[1]].method) == {
        *("scratch", "KD", "OFA", "RSD", "DKD"),
        *students.VARIANTS.values(),
    }
    assert len(frame) == 3 * (4 + 2 * (5 + len(students.VARIANTS)))


def test_gains_are_over_the_pair_and_seeds_twin(rows, frame):
    taught = students.gains(frame).set_index([*students.TWIN, "method"]).gain
    plain = rows[(rows.pair == PAIRS[1]) & (rows.seed == 2)].drop_duplicates("method").set_index("method").test_top1
    assert taught[PAIRS[1], 2, "RSD"] == pytest.approx(plain["rsd"] - plain["scratch"])


def test_the_tables_intervals_are_students_t(frame):
    top1 = frame.set_index(["pair", "seed", "method"]).test_top1.unstack()
    for line, values in (
        ("| 95 % interval, 9 pairs x seeds |", top1.RSD - top1.scratch),
        ("| 95 % interval, 3 pairs |", (top1.RSD - top1.scratch).groupby("pair").mean()),
    ):
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        shown = next(one for one in tables.pair_table(frame).splitlines() if one.startswith(line))
        assert shown.endswith(f"{low:+.2f} to {high:+.2f} |")
    apart = top1.RSD - top1.KD
    low, high = stats.t.interval(0.95, len(apart) - 1, apart.mean(), stats.sem(apart))
    assert f"| KD | 9 | {apart.mean():+.2f} | {low:+.2f} to {high:+.2f} |" in tables.direct_table(frame)


def test_a_teachers_lead_is_over_its_mean_twin(frame):
    twins = frame[(frame.pair == PAIRS[1]) & (frame.method == "scratch")].test_top1
    taught = frame[(frame.pair == PAIRS[1]) & (frame.method == "OFA")].test_top1
    table = students.leads(frame)
    assert table.lead[PAIRS[1], "OFA"] == pytest.approx(90 - twins.mean())
    assert table.gain[PAIRS[1], "OFA"] == pytest.approx(taught.mean() - twins.mean())


def test_methods_are_compared_on_their_shared_pairs(frame):
    head, _, scratch, *lines = tables.method_table(frame).splitlines()
    assert head == "| method | ViT -> CNN | MLP -> CNN | mean gain | 95 % interval |"
    assert scratch.startswith("| scratch | ")
    assert [line.split(" | ")[0] for line in lines].count("| RSD on logits") == 1
    means = [float(line.split("**")[1]) for line in lines]
    assert means == sorted(means, reverse=True)


def test_the_main_methods_alone_give_the_main_tables(tmp_path):
    results.frame([cell(pair, ["kd", "ofa", "rsd"]) for pair in PAIRS]).to_csv(tmp_path / "students.csv", index=False)
    frame = students.students(students.read(tmp_path / "students.csv"))
    assert list(tables.tables(frame)) == ["pairs", "methods", "direct", "inside"]


def test_likeness_of_embeddings_and_mean_over_layers():
    layers = [(a, b, m) for m in ("scratch", "rsd") for a in ("blocks.0", "embedding") for b in ("layer1", "embedding")]
    likeness = pd.DataFrame(layers, columns=["student_layer", "teacher_layer", "method"])
    likeness["cka"] = [0.1, 0.2, 0.3, 0.6, 0.1, 0.4, 0.6, 0.9]
    sides = {
        "before": {"diagonal_mean": 0.0, "off_diagonal_rms": 0.2},
        "after": {"diagonal_mean": 0.8, "off_diagonal_rms": 0.3},
    }
    shown = tables.likeness_table({PAIRS[0]: likeness}, {PAIRS[0]: {**sides, "teacher_rms": 0.4}}).splitlines()[-1]
    assert shown == "| CNN -> ViT | 0.60 | 0.90 | 0.30 | 0.50 | 0.00 | 0.80 | 0.20 | 0.30 | 0.40 |"


def test_pictures_can_be_drawn(frame):
    for draw in (charts.gain_chart, charts.lead_chart, charts.rank_chart):
        assert charts.svg(draw(frame)).startswith("<svg")


def test_the_pages_tables_follow_from_its_students():
    frame = pd.read_csv(ROOT / FOLDER / "students.csv")
    shown = parts((ROOT / PAGE).read_text())
    for name, table in tables.tables(frame).items():
        assert shown[name] == table
