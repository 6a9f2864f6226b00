"""The table of a run's times counts what ran last, and names what came from the cache."""

import json
from pathlib import Path

import pytest

from rsd.machine.errors import UserError
from rsd.report.stage_times import last_run, summary
from rsd.run import times
from rsd.run.paths import Run
from rsd.run.times import StageTime

LOCK: dict[str, dict[str, dict[str, str]]] = {
    "stages": {name: {} for name in ["device", "params", "teacher", "distill@rsd-0", "distill@kd-0", "report"]}
}
CHOICE = {"pair": "p", "data": "d", "recipe": "r", "methods": ["rsd"], "seeds": [0], "precisions": ["fp32"]}


def stages(names: str, start: float = 0.0) -> list[StageTime]:
    """Stages of 2 s, 1 s of it imports, with 1 s between them."""
    return [
        StageTime(stage=name, start=start + 3 * place, seconds=2, imports=1) for place, name in enumerate(names.split())
    ]


def project(folder: Path, noted: list[StageTime]) -> Run:
    (folder / "dvc.lock").write_text(json.dumps(LOCK))
    (folder / "out" / "params").mkdir(parents=True)
    (folder / "out" / "params" / "run.json").write_text(json.dumps(CHOICE | {"ships": "rsd"}))
    for time in noted:
        times.note(time, folder / times.FILE)
    return Run.of(folder)


def test_each_stage_has_seconds_share_and_imports(tmp_path):
    run = project(tmp_path, stages("device params teacher distill@rsd-0 report"))
    lines = [line.split() for line in summary(run).splitlines()]
    assert lines[0] == ["stage", "seconds", "share", "of", "it", "imports"]
    assert lines[2] == ["device", "2.0", "14%", "1.0"]
    assert lines[-2:] == [["DVC,", "between", "the", "stages", "4.0", "29%"], ["total", "14.0", "100%", "5.0"]]


def test_what_did_not_run_came_from_the_cache(tmp_path):
    first = stages("device params teacher report", start=1_000_000)
    run = project(tmp_path, [*first, *stages("device report", start=2_000_000)])
    table, cached = summary(run).split("\n\n")
    assert table.splitlines()[-1].split()[:2] == ["total", "5.0"]
    assert cached.splitlines() == [
        "from the cache: distill@rsd-0",
        "from the cache: params (2.0 s on 1970-01-12)",
        "from the cache: teacher (2.0 s on 1970-01-12)",
    ]


def test_the_installation_is_named_beside_the_run(tmp_path):
    noted = [StageTime(stage="install pipeline", start=start, seconds=90) for start in (1, 1_000_000)]
    run = project(tmp_path, [*noted, *stages("device", start=2_000_000)])
    lines = summary(run).splitlines()
    assert lines[-1] == "install pipeline (90.0 s on 1970-01-12)"
    assert ["total", "2.0"] in [line.split()[:2] for line in lines]


def test_stages_side_by_side_are_pointed_out(tmp_path):
    run = project(tmp_path, [*stages("device", start=1), *stages("params teacher", start=2)])
    assert "(some ran side by side: the run took 6.0 s)" in summary(run)


def test_without_times_a_sentence_says_how(tmp_path):
    with pytest.raises(UserError, match="^expected the times of stages in .*, found none; run `dvc repro`"):
        summary(project(tmp_path, []))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("device params report", "device sources"),
        ("device params report", "params device sources"),  # of a flow, whose first stages start together
        ("device params", "report"),
    ],
)
def test_the_last_run_has_each_stage_once(before, after):
    noted = [*stages(before), *stages(after, start=100)]
    names = [time.stage for time in last_run(noted)]
    assert names == (f"{before} {after}" if after == "report" else after).split()


def test_a_long_pause_ends_a_run():
    noted = [*stages("device params"), *stages("report", start=10_000)]
    assert [time.stage for time in last_run(noted)] == ["report"]
