"""The table of a sweep: what it counts, pairs and leaves out."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from pipelines.sweep import results
from rsd.machine.files import write_json
from tests.rsd.run.small import student as student_record
from tests.rsd.run.small import whole_run

THREE = 4.3026527299  # half-width of a 95 % t interval of three values, in standard errors


def student(method: str, seed: int, validation: float, test: float) -> dict[str, object]:
    return {"method": method, "seed": seed, "validation_top1": validation, "test_top1": test}


def cell(weight: str, gains: dict[int, float], **more: str) -> tuple[dict[str, str], list[dict[str, object]]]:
    students = [student("scratch", seed, 90 + seed, 80 + seed) for seed in gains]
    students += [student("rsd", seed, 90 + seed + gain, 80 + seed + 2 * gain) for seed, gain in gains.items()]
    return {"method.rsd.weight": weight, **more}, students


def test_gains_pair_seeds_and_have_t_intervals() -> None:
    table = results.summary(results.frame([cell("0.1", {0: 1.0, 1: 2.0, 2: 3.0}), cell("0.2", {0: 3.0, 1: 3.0})]))

    row = table[(table["method"] == "rsd") & (table["method.rsd.weight"] == "0.1")].iloc[0]
    assert row["seeds"] == 3
    assert row["validation_gain"] == pytest.approx(2)
    assert row["validation_gain_low"] == pytest.approx(2 - THREE / 3**0.5)
    assert row["validation_gain_high"] == pytest.approx(2 + THREE / 3**0.5)
    assert row["test_gain"] == pytest.approx(4)
    assert row["validation_top1"] == pytest.approx(93)
    assert row["validation_top1_high"] == pytest.approx(93 + THREE * 2 / 3**0.5)
    assert pd.isna(table[table["method"] == "scratch"].iloc[0]["validation_gain"])


def test_split_cells_give_the_same_table_as_one() -> None:
    values, students = cell("0.1", {0: 1.0, 1: 2.0})
    kd = [student("kd", seed, 91, 82) for seed in (0, 1)]
    whole = [({**values, "methods": "[scratch,rsd,kd]"}, [*students, *kd]), cell("0.2", {0: 0.0, 1: 0.0})]
    split = [
        (
            {**values, "methods": f"[scratch,{method}]", "seeds": f"[{seed}]"},
            [one for one in [*students, *kd] if one["seed"] == seed and one["method"] in ("scratch", method)],
        )
        for method in ("rsd", "kd")
        for seed in (0, 1)
    ] + [cell("0.2", {0: 0.0, 1: 0.0})]

    pd.testing.assert_frame_equal(results.summary(results.frame(whole)), results.summary(results.frame(split)))


def test_two_seeds_have_no_interval(tmp_path: Path) -> None:
    text = results.write(tmp_path, results.frame([cell("0.1", {0: -0.67, 1: -0.67})]), [])

    assert " to " not in text.splitlines()[3]
    assert "| 2 | 89.83 | -0.67 | 79.16 | -1.34 |" in text


def test_accuracies_stay_below_100() -> None:
    students = [student("rsd", seed, top1, top1) for seed, top1 in enumerate((90.0, 99.0, 100.0))]
    row = results.summary(results.frame([({}, students)])).iloc[0]
    assert (row["validation_top1_high"], row["test_top1_high"]) == (100, 100)


def test_no_interval_for_one_seed_or_missing_twin() -> None:
    only = (
        {"method.rsd.weight": "0.1"},
        [student("rsd", 0, 91, 81), student("rsd", 1, 92, 82), student("scratch", 1, 90, 80)],
    )

    rows = results.summary(results.frame([only])).set_index("method")

    assert rows.loc["rsd", "validation_gain"] == 2.0
    assert rows["validation_gain_low"].isna().all()
    assert rows.loc["rsd", "seeds"] == 2


@pytest.mark.parametrize(
    ("scratch", "rsd", "sentence"),
    [
        (13.89, 12.50, "Best on validation: scratch. The"),
        (12.50, 13.89, "Best on validation: rsd. The"),
        (12.50, 12.50, "Best on validation, 2 with the same mean: scratch; rsd. The"),
    ],
)
def test_the_best_may_be_scratch(tmp_path: Path, scratch: float, rsd: float, sentence: str) -> None:
    rows = results.frame([({}, [student("rsd", 0, rsd, 90), student("scratch", 0, scratch, 80)])])
    assert sentence in results.write(tmp_path, rows, [])


def test_validation_chooses_the_best_setting(tmp_path: Path) -> None:
    good_on_test = {"w": "1"}, [student("rsd", 0, 91, 99), student("scratch", 0, 90, 90)]
    good = {"w": "2"}, [student("rsd", 0, 92, 91), student("scratch", 0, 90, 90)]

    text = results.write(tmp_path, results.frame([good_on_test, good]), ["w=3"])

    assert "Best on validation: rsd, w=2." in text
    assert "Missing: w=3." in text
    assert text.splitlines()[0] == (
        "| w | method | seeds | validation top-1 % | gain over scratch | test top-1 % | gain on test |"
    )
    assert "| 2 | rsd | 1 | 92.00 | +2.00 | 91.00 | +1.00 |" in text


@pytest.mark.parametrize(
    "cells",
    [
        [cell(weight, {0: 1.0, 1: 2.0, 2: 4.0}, pair=pair) for weight in ("0.01", "0.1", "1") for pair in ("a", "b")],
        [cell("0.1", {0: 1.0, 1: 2.0}, pair=pair) for pair in ("a", "b")],
        [cell("0.1", {0: 1.0})],
        [({"w": "1"}, [student("rsd", 0, 91, 81)])],
        [({"w": "1"}, [{"method": "rsd", "seed": 0, "validation_top1": 91.0}])],
    ],
    ids=["numbers and pairs", "pairs", "one cell", "no twin", "not evaluated"],
)
def test_every_shape_of_sweep_is_written_and_drawn(
    tmp_path: Path, cells: list[tuple[dict[str, str], list[dict[str, object]]]]
) -> None:
    results.write(tmp_path, results.frame(cells), [])

    assert {file.name for file in tmp_path.iterdir()} == {
        "students.csv",
        "table.csv",
        "table.md",
        "plot.svg",
        "plot.png",
    }
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "rsd" in (tmp_path / "plot.svg").read_text()
    assert len(pd.read_csv(tmp_path / "students.csv")) == sum(len(students) for _, students in cells)


def test_sweeps_that_end_at_once_write_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "svg", lambda _: "<svg/>")
    monkeypatch.setattr(results.vl_convert, "svg_to_png", lambda drawing, scale: b"")
    rows = results.frame([cell("0.1", {0: 1.0})])

    with ThreadPoolExecutor(4) as pool:
        texts = [*pool.map(lambda _: results.write(tmp_path / "it", rows, []), range(12))]

    assert texts == [(tmp_path / "it" / "table.md").read_text()] * 12


def test_students_are_of_this_run_with_its_measurements(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "out")
    write_json(run.params / "method" / "my-own.json", {})
    run.write(student_record(run, "my-own", "left by another choice of params"))

    scratch, rsd = results.students(tmp_path)

    assert (scratch["method"], rsd["method"], rsd["seed"]) == ("scratch", "rsd", 0)
    assert (rsd["validation_top1"], rsd["test_top1"], rsd["test_nll"]) == (90.0, 95.0, 0.1)
    assert (rsd["parameters"], rsd["teacher_top1"]) == (10, 95.0)


def test_a_student_trained_anew_has_no_test_figures(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "out")
    run.write(student_record(run, "rsd", "trained anew"))  # by a cell that stops there

    assert results.students(tmp_path)[1] == {"method": "rsd", "seed": 0, "validation_top1": 90.0}


def test_a_cell_without_params_has_no_students(tmp_path: Path) -> None:
    assert results.students(tmp_path) == []
