import json
import shutil
from pathlib import Path

import pytest

from rsd.report.compare import tables
from tests.rsd.report.conftest import write

from .conftest import better_by, on_another_machine


def test_a_gain_on_every_seed_is_coloured(make_run):
    runs = [make_run("main"), make_run("new", better_by({0: 0.4, 1: 0.5, 2: 0.6}))]
    rows = dict(tables.metrics(runs))["RSD"]
    (_, first), (_, second) = rows
    top1, gain, nll = second[1:4]
    assert (top1.note, top1.state) == ("+0.50\n+0.25 to +0.75", "good")
    assert (gain.note, gain.state) == ("+0.50\n+0.25 to +0.75", "good")
    assert (nll.note, nll.state) == ("+0.000", "")
    assert first[1].state == ""
    assert " to " in first[1].note
    assert tables.headline(runs) == "The RSD students of new are 0.50 points above those of main."


def test_equal_or_few_differences_are_no_verdict(make_run):
    for runs, reason in (
        ([make_run("main"), make_run("new", better_by(0.5))], "3 seeds with the same result, so no interval can"),
        (
            [make_run("two", seeds=(0, 1)), make_run("new two", better_by({0: 0.4, 1: 0.6}), seeds=(0, 1))],
            "2 seeds, too few for an interval",
        ),
    ):
        (_, cells) = dict(tables.metrics(runs))["RSD"][1]
        assert (cells[1].note, cells[1].state) == ("+0.50", "")
        assert f"students of {runs[1].name} are 0.50 points above those of {runs[0].name}: {reason}" in tables.headline(
            runs
        )


def test_less_of_what_should_be_small_is_good(make_run):
    def calmer(out: Path) -> None:
        path = out / "evaluate" / "models.json"
        write(
            path,
            [
                model | {"nll": model["nll"] - 0.01 - 0.001 * (model["seed"] or 0)}
                for model in json.loads(path.read_text())
            ],
        )

    rows = dict(tables.metrics([make_run("main"), make_run("new", calmer)]))["RSD"]
    assert rows[1][1][3].state == "good"


def test_the_teacher_has_no_seeds_and_no_interval(make_run):
    (_, cells) = dict(tables.metrics([make_run("main"), make_run("new", better_by(1, "teacher"))]))["teacher"][1]
    assert cells[1].note == "+1.00"


def test_methods_without_any_result_are_only_named(make_run):
    runs = [make_run("main"), make_run("new", better_by(0.5))]
    assert tables.unchanged(runs) == ["teacher", "scratch"]
    assert [method for method, _ in tables.metrics(runs)] == ["RSD"]
    assert "scratch" not in tables.unchanged([*runs, make_run("fewer", seeds=(0, 1))])


def test_seeds_that_disagree_are_not_a_gain(make_run):
    def mixed(out: Path) -> None:
        path = out / "evaluate" / "models.json"
        models = json.loads(path.read_text())
        write(path, [m | {"top1": m["top1"] + (m["seed"] or 0) - 0.5} for m in models])

    runs = [make_run("main"), make_run("new", mixed)]
    assert tables.headline(runs) == "Whether new is more accurate than main, 3 seeds cannot tell."


def test_differing_params_stand_in_the_stages_order(make_run):
    def change(out: Path) -> None:
        write(out / "params" / "method" / "rsd.json", {"weight": 0.2, "kappa": 0.01, "gamma": 2, "space": "embedding"})
        write(out / "params" / "method" / "kd.json", {"weight": 1.0})
        recipe = json.loads((out / "params" / "recipe.json").read_text())
        write(out / "params" / "recipe.json", recipe | {"epochs": 80})

    rows = tables.params([make_run("main"), make_run("new", change)])
    assert [(key, [cell.text for cell in cells]) for key, cells in rows] == [
        ("recipe.epochs", ["12", "80"]),
        ("method.rsd.weight", ["0.1", "0.2"]),
        ("method.kd.weight", ["-", "1.0"]),
    ]
    assert rows[0][1][1].state == "changed"


def test_latencies_of_other_devices_get_no_ratio(make_run):
    runs = [make_run("main"), make_run("new", on_another_machine)]
    assert "Devices differ, so latencies cannot be compared" in " ".join(tables.warnings(runs))
    assert not tables.same_device(runs)
    assert not [cell for _, cells in tables.latencies(runs) for cell in cells if "times" in cell.note]
    assert "times" not in tables.glance(runs)[1][1][5].note


def test_one_devices_latencies_are_ratios_to_the_first(make_run):
    def slower(out: Path) -> None:
        path = out / "benchmark" / "latency.json"
        record = json.loads(path.read_text())
        for row in record["rows"]:
            if row["status"] == "measured":
                row |= {"p50_ms": 2 * row["p50_ms"], "p99_ms": 3 * row["p99_ms"]}
        write(path, record)

    runs = [make_run("main"), make_run("new", slower)]
    assert tables.latencies(runs)[0][1][1].note == "2.00 · 3.00 times"
    assert tables.glance(runs)[1][1][5].note.endswith("3.00 times")


def test_other_test_data_bring_a_warning_first(make_run):
    main = make_run("main")
    for other in (make_run("new", better_by(3), test_data="other"), make_run("old", test_data=None)):
        assert "Test data differ" in tables.warnings([main, other])[0]
        assert "cannot be compared" in tables.headline([main, other])


def test_what_else_differs_is_said(make_run):
    def older(out: Path) -> None:
        record = json.loads((out / "students" / "rsd-0" / "student.json").read_text())
        write(out / "students" / "rsd-0" / "student.json", record | {"versions": {"torch": "2.14.1", "timm": "1.0.30"}})
        device = json.loads((out / "device.json").read_text())
        device["versions"]["torch"] = "2.13.0"
        write(out / "device.json", device)

    run = make_run("new", older, seeds=(0, 1), code=("rsd/methods/rsd.py",))
    output = tables.warnings([make_run("main"), run])
    assert "Seeds differ: new has 0, 1, main has 0, 1, 2." in output
    assert "Versions differ: new has torch 2.13.0 for 2.14.1." in output
    assert "Code differs between main and new: rsd/methods/rsd.py." in output
    assert tables.warnings([make_run("a"), make_run("b")])[:1] == [
        "The machine was noisy while a was timed: 1 of 4 rows."
    ]


def test_sizes_stand_beside_the_first_runs(make_run):
    rows = dict(tables.sizes([make_run("main"), make_run("new", bundle_bytes=6_300_000)]))
    assert [cell.note for cell in rows["bundle"]] == ["", "+5.0\N{NO-BREAK SPACE}%"]
    assert [cell.text for cell in rows["fp32.onnx"]] == ["118 kB", "118 kB"]


def test_a_metric_missing_in_older_runs_stays_empty(make_run):
    def older(out: Path) -> None:
        path = out / "evaluate" / "models.json"
        write(path, [{k: v for k, v in m.items() if k != "effective_rank"} for m in json.loads(path.read_text())])

    rows = dict(tables.metrics([make_run("old", older), make_run("new")]))["RSD"]
    assert [row[-1].text for _, row in rows] == ["-", "21.8"]
    assert "effective_rank" not in [one.key for one in tables.measured([make_run("older", older)])]


@pytest.mark.parametrize("missing", ["benchmark", "export", "convert", "students", "engines"])
def test_a_missing_record_leaves_the_others_compared(make_run, missing):
    runs = [make_run("main"), make_run("new", lambda out: shutil.rmtree(out / missing))]
    assert len(tables.glance(runs)) == 2
    assert tables.unchanged(runs) == ["teacher", "scratch", "rsd"]
    tables.latencies(runs)
    tables.sizes(runs)
    assert tables.headline(runs)
