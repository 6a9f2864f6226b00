from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.marked import parts
from benchmarks.sensitivity import charts, students, tables
from benchmarks.sensitivity.__main__ import FOLDER, PAGE
from benchmarks.study.students import WIDTHS, read
from pipelines.sweep import results

ROOT = Path(__file__).parents[2]
WEIGHTS, KAPPAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), ("0", "0.01", "0.1")
OTHERS = ("fashion/cnn-vit", "fashion/mlp-vit")


def cell(pair, gain, *, seeds=(0, 1), test=None, **values):
    """A cell: `gain` on validation, `test` on test, over a twin that depends on pair, batch and seed alone."""
    frame = []
    for seed in seeds:
        scratch = 80 + seed + len(values.get("override.recipe.batch_size", ""))
        for method, own, other in (("scratch", 0.0, 0.0), ("rsd", gain + seed / 10, test)):
            frame.append({"method": method, "seed": seed, "validation_top1": scratch + own, "parameters": 1})
            if test is not None:
                frame[-1]["test_top1"] = 70 + seed + other
    return {"pair": pair, "methods": "[]", **values}, frame


def settings(weight, kappa):
    return {"method.rsd.weight": str(weight), "method.rsd.kappa": kappa}


def peak(weight, best):
    """A gain that falls by a point per factor of e from the best weight."""
    return 3 - abs(np.log(weight / best))


@pytest.fixture
def frame(tmp_path):
    """Teachers of many widths whose best weight follows the root of their width; the less kappa the better."""
    cells = []
    for pair, weight, kappa in product(students.CHOSEN_ON, WEIGHTS, KAPPAS):
        width = WIDTHS[pair.split("/")[1].split("-")[0]]
        gain = peak(weight, 0.3 * (768 / width) ** 0.5) - float(kappa)
        cells.append(cell(pair, gain, **settings(weight, kappa)))
    for pair, weight, kappa in product(OTHERS, WEIGHTS, KAPPAS):
        # Validation likes 3.0, the test split 0.3.
        cells.append(cell(pair, peak(weight, 3.0), seeds=(0, 1, 2), test=peak(weight, 0.3), **settings(weight, kappa)))
    for last, weight in product((64, 1024), WEIGHTS):
        teacher = {"override.teacher.args.channels": f"[32,64,128,{last}]"}
        gain = peak(weight, 0.3 * (768 / last) ** 0.5)
        cells.append(cell("fashion/cnn-mlp", gain, **{"method.rsd.weight": str(weight), **teacher}))
    cells.append(
        cell("fashion/cnn-mlp", 0.25, **{"method.rsd.reference_width": "768", "override.teacher.args.channels": "[64]"})
    )
    cells.append(cell("fashion/vit-cnn", 0.5, **{"override.teacher.args.embed_dim": "64"}))
    cells += [cell("fashion/cnn-mlp", 1.0, **{"method.rsd.gamma": gamma}) for gamma in ("1", "4")]
    batch = {"override.recipe.batch_size": "512", "override.recipe.learning_rate": "0.008"}
    cells.append(cell("fashion/vit-cnn", 5.0, **batch))
    cells.append(cell("fashion/vit-cnn", -9.0, **{"method.rsd.reference_width": "768"}))
    results.frame(cells).to_csv(tmp_path / "students.csv", index=False)
    return students.students(read(tmp_path / "students.csv"))


def test_what_a_cell_leaves_out_is_the_default(frame):
    assert set(frame.width) == {64, 128, 256, 1024}
    assert set(frame.batch) == {128, 512}
    assert set(frame.kappa) == {0, 0.01, 0.1}
    assert set(frame.gamma) == {1, 2, 4}
    assert set(frame.reference_width.dropna()) == {768}
    assert set(frame[frame.gamma != 2].weight) == {0.1}


def test_gains_are_over_the_twin_of_equal_settings(frame):
    own = frame[frame.batch == 512].set_index("seed").validation_gain
    assert own.to_dict() == pytest.approx({0: 5.0, 1: 5.1})


def test_only_held_out_pairs_know_the_test_split(frame):
    assert frame[frame.pair.isin(students.CHOSEN_ON)].test_gain.isna().all()
    others = frame[frame.pair.isin(OTHERS)]
    assert others.test_gain.to_numpy() == pytest.approx([peak(weight, 0.3) for weight in others.weight])


def test_one_setting_at_a_time_leaves_the_defaults(frame):
    part = students.along(frame, "kappa")
    assert set(part.pair) == set(students.CHOSEN_ON)
    assert set(part.weight) == {0.1}
    assert set(part.reference_width.dropna()) == set()
    assert len(part) == 2 * 3 * 2
    widths = students.along(frame, "width").groupby("pair").width.agg(set).to_dict()
    assert widths == {"fashion/cnn-mlp": {64, 256, 1024}, "fashion/vit-cnn": {64, 128}}


def test_the_grid_varies_weight_and_kappa_only(frame):
    part = students.grid(frame)
    assert set(part.pair) == set(students.CHOSEN_ON)
    assert len(part) == len(WEIGHTS) * len(KAPPAS) * 2 * 2
    assert set(part.gamma) == {2}
    assert set(part.batch) == {128}
    assert set(part.width) == {128, 256}


def test_a_settings_loss_is_the_best_settings_lead(frame):
    lost = students.setting_losses(frame, 0.1, 0.1).set_index(["pair", "seed"]).loss
    for pair, width in (("fashion/cnn-mlp", 256), ("fashion/vit-cnn", 128)):
        best = 0.3 * (768 / width) ** 0.5
        ahead = max(peak(weight, best) for weight in WEIGHTS) - (peak(0.1, best) - 0.1)
        assert lost[pair].to_dict() == pytest.approx({0: ahead, 1: ahead})


def test_choosing_and_judging_use_different_seeds():
    lucky = pd.DataFrame(
        {
            "pair": "fashion/cnn-mlp",
            "width": 256,
            "batch": 128,
            "weight": [0.1, 0.1, 1.0, 1.0] * 2,
            "kappa": [0.0, 0.1] * 4,
            "gamma": 2.0,
            "reference_width": np.nan,
            "seed": [0, 0, 0, 0, 1, 1, 1, 1],
            "validation_gain": [1.0, 0.0, 4.0, 0.0, 1.0, 0.0, -4.0, 0.0],
        }
    )
    lost = students.setting_losses(lucky, 0.1, 0.0).set_index("seed").loss
    assert lost.to_dict() == pytest.approx({0: 0.0, 1: -5.0})


def test_held_out_pairs_choose_on_validation_only(frame):
    lost = students.held_out_losses(frame, 0.3, 0.01)
    assert set(lost.pair) == set(OTHERS)
    assert len(lost) == 6
    assert set(lost.best_weight) == {3.0}  # though the test split would choose 0.3
    assert lost.loss.to_numpy() == pytest.approx(peak(3.0, 0.3) - peak(0.3, 0.3))


def test_held_out_intervals_are_students_t(frame):
    frame.loc[frame.pair.isin(OTHERS), "test_top1"] += np.random.default_rng(0).uniform(
        0, 1, frame.pair.isin(OTHERS).sum()
    )
    lost = students.held_out_losses(frame, *students.JUDGED[0])
    *_, means, each, pairs = tables.held_out_table(frame).splitlines()
    assert f" **{lost.loss.mean():+.2f}** |" in means
    low, high = stats.t.interval(0.95, len(lost) - 1, lost.loss.mean(), stats.sem(lost.loss))
    assert each.startswith(f"| 95 % interval, 6 pairs x seeds |  |  |  | {low:+.2f} to {high:+.2f} |")
    assert pairs.startswith("| 95 % interval, 2 pairs |  |  |  |  |")  # too few for an interval


def test_the_setting_that_loses_least_is_named_first(frame):
    first = tables.choice_table(frame).splitlines()[2]
    assert first.startswith("| 1 | 0 |") or first.startswith("| 0.3 | 0 |")


def test_pictures_can_be_drawn(frame):
    for draw in (charts.grid_chart, charts.along_chart):
        assert draw(frame).to_dict()


def test_the_pages_tables_follow_from_its_students():
    frame = pd.read_csv(ROOT / FOLDER / "students.csv")
    shown = parts((ROOT / PAGE).read_text())
    for name, table in tables.tables(frame).items():
        assert shown[name] == table
