"""A sweep's cells are experiments, run once, resumed where they were, and judged apart."""

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest
from prefect import flow, get_client

from benchmarks.sweep import chart, simulated
from pipelines.git import experiments
from pipelines.network import NetworkError
from pipelines.outcome import StageError
from pipelines.process_group import GRACE_SECONDS
from pipelines.server import connection
from pipelines.sweep import clone, places
from pipelines.sweep.__main__ import main
from pipelines.sweep.clone import Project
from pipelines.sweep.flows import run_units
from pipelines.sweep.grid import Grid
from pipelines.sweep.places import Place
from pipelines.sweep.prepare import Prepared, prepare
from pipelines.sweep.units import Unit
from rsd.machine.errors import UserError
from tests.pipelines.conftest import ToyRepo, wait_until
from tests.pipelines.sweep.sweep_project import SweepRepo

WEIGHTS = "method.rsd.weight=0.1,0.2"
UNIT = Unit("weights-1-d1935t", "weight=1", "", ("evaluate",), {}, (), ())
PROJECT = Project("weights", "nowhere", 40 * "0", 40 * "1", "cells", None, None)
ONCE = {"teacher": 1, "distill-scratch-0 0": 1, "distill-rsd-0 0.1": 1, "distill-rsd-0 0.2": 1, "evaluate": 2}


@pytest.fixture
def repo(tmp_path: Path, make_dvc_repo: Callable[[Path], ToyRepo]) -> SweepRepo:
    return SweepRepo(tmp_path / "project", make_dvc_repo)


def finish(process: subprocess.Popen[str], *, code: int = 0) -> str:
    shown = process.communicate(timeout=300)[0]
    assert process.returncode == code, shown
    return shown


def trained(repo: SweepRepo) -> Counter[str]:
    return Counter(line["what"] for line in repo.noted())


def test_cells_are_experiments_and_shared_stages_run_once(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    head, files = repo.git("rev-parse", "HEAD"), repo.git("status", "--porcelain")

    shown = finish(repo.sweep(prefect_server, WEIGHTS, "--seeds", "0", "--name", "weights"))

    assert trained(repo) == ONCE
    assert len([name for name in repo.experiments() if name.startswith("weights-0.")]) == 2
    assert (repo.git("rev-parse", "HEAD"), repo.git("status", "--porcelain")) == (head, files)
    assert not (repo.path / ".state/sweeps/weights").exists()
    table = pd.read_csv(repo.path / "out/sweeps/weights/table.csv").set_index(["method.rsd.weight", "method"])
    assert table.loc[(0.2, "rsd"), "validation_gain"] == pytest.approx(2.0)
    assert (repo.path / "out/sweeps/weights/table.md").read_text() in shown
    with get_client(sync_client=True) as client:
        artifacts = [artifact for artifact in client.read_artifacts() if artifact.key == "sweep-weights"]
        flows = [run.name for run in client.read_flow_runs()]
        tasks = {run.name for run in client.read_task_runs()}
    assert len(artifacts) == 1
    assert "| 0.2 | rsd | 1 |" in str(artifacts[0].data)
    assert "sweep weights of near: scratch, rsd; seeds 0" in flows
    assert {"shared: teacher of near", "method.rsd.weight=0.2 of near: scratch, rsd; seeds 0"} <= tasks


@pytest.mark.slow
def test_the_projects_dvc_has_params_metrics_and_outputs(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    finish(repo.sweep(prefect_server, WEIGHTS, "--seeds", "0", "--name", "weights"))
    [name] = [name for name in experiments(repo.path) if name.startswith("weights-0.2-")]

    repo.dvc("exp", "apply", name)

    assert "weight: 0.2" in (repo.path / "params.yaml").read_text()
    assert json.loads((repo.path / "out/evaluate/metrics.json").read_text()) == {"scratch-0": 89.0, "rsd-0": 91.0}
    assert "up to date" in repo.dvc("repro", "evaluate")
    assert json.loads((repo.path / "sweep.json").read_text())["values"] == {"method.rsd.weight": "0.2", "seeds": "[0]"}


@pytest.mark.slow
def test_the_same_sweep_again_runs_only_new_cells(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    finish(repo.sweep(prefect_server, WEIGHTS, "--seeds", "0", "--name", "weights"))
    before = repo.noted()

    shown = finish(repo.sweep(prefect_server, WEIGHTS, "--seeds", "0", "--name", "weights"))

    assert "2 cells: 2 done" in shown
    assert repo.noted() == before
    finish(repo.sweep(prefect_server, "method.rsd.weight=0.1,0.2,0.4", "--seeds", "0", "--name", "weights"))
    assert [line["what"] for line in repo.noted()[len(before) :]] == ["distill-rsd-0 0.4", "evaluate"]
    assert len(pd.read_csv(repo.path / "out/sweeps/weights/table.csv")) == 6


@pytest.mark.slow
def test_a_failed_cell_stops_no_other_cell(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    arguments = [WEIGHTS, "--seeds", "0", "--name", "weights"]

    shown = finish(repo.sweep(prefect_server, *arguments, BREAK="distill-rsd-0 0.1"), code=1)

    assert shown.splitlines()[-1] == "error: method.rsd.weight=0.1: expected calm, found a storm; wait"
    assert "Traceback" not in shown
    assert trained(repo)["distill-rsd-0 0.2"] == 1
    assert "Missing: method.rsd.weight=0.1." in shown
    finish(repo.sweep(prefect_server, *arguments))
    assert trained(repo) == ONCE


@pytest.mark.slow
def test_cells_whose_teacher_failed_do_not_run(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    shown = finish(repo.sweep(prefect_server, WEIGHTS, "--seeds", "0", BREAK="teacher"), code=1)

    assert not repo.noted()
    assert "2 cells: 2 not run" in shown
    assert shown.splitlines()[-1] == "error: shared: teacher: expected calm, found a storm; wait"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_sweep_goes_on_from_its_checkpoint(
    repo: SweepRepo, prefect_server: dict[str, str], number: signal.Signals
) -> None:
    arguments = [WEIGHTS, "--seeds", "0", "--name", "weights", "--jobs", "1"]
    process = repo.sweep(prefect_server, *arguments, HOLD="distill-rsd-0 0.2")

    def held() -> list[int]:
        return [line["pid"] for line in repo.noted("begin") if line["what"] == "distill-rsd-0 0.2"]

    wait_until(lambda: bool(held()), 120, process)
    process.send_signal(number)
    process.communicate(timeout=60)
    wait_until(lambda: not psutil.pid_exists(held()[0]), GRACE_SECONDS + 10)
    [lock] = repo.path.glob(".state/sweeps/weights/weights-0.2-*/.dvc/tmp/rwlock")
    lock.write_text("")  # as after a power cut

    finish(repo.sweep(prefect_server, *arguments))

    begun = [(line["what"], line["steps"]) for line in repo.noted("begin")]
    assert begun.count(("distill-rsd-0 0.2", 0)) == begun.count(("distill-rsd-0 0.2", 7)) == 1
    assert trained(repo)["teacher"] == trained(repo)["distill-rsd-0 0.1"] == trained(repo)["distill-rsd-0 0.2"] == 1


@pytest.mark.slow
def test_uncommitted_changes_are_swept_too(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    work = repo.path / "work.py"
    work.write_text(work.read_text().replace("10 * weight", "20 * weight"))

    finish(repo.sweep(prefect_server, "method.rsd.weight=0.1", "--seeds", "0", "--name", "edited"))

    table = pd.read_csv(repo.path / "out/sweeps/edited/table.csv").set_index("method")
    assert table.loc["rsd", "validation_gain"] == pytest.approx(2.0)
    assert repo.git("status", "--porcelain").split() == ["M", "work.py"]


@pytest.mark.parametrize(
    ("error", "tries"),
    [(NetworkError("no route to host"), 3), (StageError("expected calm"), 1), (ValueError("odd"), 1)],
)
def test_only_a_network_error_is_tried_again(
    prefect_server: dict[str, str], monkeypatch: pytest.MonkeyPatch, error: Exception, tries: int
) -> None:
    tried = []

    def run(*_: object) -> str:
        tried.append(1)
        if len(tried) < 3:
            raise error
        return "refs/exps/it"

    monkeypatch.setattr(places, "run", run)

    state = places.run_unit.with_options(retry_delay_seconds=0)(UNIT, PROJECT, {}, None, return_state=True)

    assert len(tried) == tries
    assert state.is_completed() == (tries == 3)


def test_a_cell_that_dask_cannot_run_has_failed(prefect_server: dict[str, str]) -> None:
    class Lost:
        def add_done_callback(self, note: Callable[[object], None]) -> None:
            note(self)

        def result(self, raise_on_failure: bool) -> None:
            raise RuntimeError("the scheduler has\nother libraries")

    ready = Prepared("weights", Path(), PROJECT, [UNIT], {}, None)
    place = Place(SimpleNamespace(submit=lambda task, parameters: Lost()), lambda: 1, threading.Event())
    states: dict[str, str] = {}

    @flow
    def one() -> list[str]:
        return run_units(ready, place, states)

    assert one() == ["weight=1: the scheduler has other libraries"]
    assert states == {UNIT.name: "failed"}


def test_cells_of_a_sweep_share_a_progress_key(prefect_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(unit: Unit, _p: object, _n: object, _s: object, say: Callable[[str], None]) -> str:
        say(f"rsd-0:  48%|####8     | {unit.label} [00:10<00:10]")
        return "refs/exps/it"

    monkeypatch.setattr(places, "run", run)
    project = replace(PROJECT, sweep="shown")
    for number in "12":
        assert (
            places.run_unit(replace(UNIT, label=f"weight={number}"), project, {}, threading.Event()) == "refs/exps/it"
        )

    with get_client(sync_client=True) as client:
        artifacts = [one for one in client.read_artifacts() if one.key == "progress-shown"]
    assert sorted((one.data, one.description) for one in artifacts) == [
        (100.0, "weight=1: done"),
        (100.0, "weight=2: done"),
    ]


def test_a_password_in_a_git_url_is_refused(repo: SweepRepo) -> None:
    repo.git("remote", "add", "hub", "https://me:s3cr3t@example.org/it.git")
    for given in ("hub", "https://me:s3cr3t@example.org/it.git"):
        with pytest.raises(UserError, match="^git_remote: expected a remote without a password, found one") as refused:
            prepare("weights", [], repo.path, git_remote=given, dvc_remote="store")
        assert "s3cr3t" not in str(refused.value)


def test_a_remotes_refusal_is_no_network_error(tmp_path: Path) -> None:
    for source, mended in {str(tmp_path / "nothing"): False, "http://127.0.0.1:9/it.git": True}.items():
        project = replace(PROJECT, source=source, workspaces=str(tmp_path / "cells"))
        with pytest.raises(StageError, match="weight=1: git ls-remote in .* failed") as refused:
            clone.run(UNIT, project, {}, threading.Event(), lambda _: None)
        assert isinstance(refused.value, NetworkError) == mended


@pytest.mark.slow
def test_a_sweep_started_twice_runs_cells_once(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    both = [repo.sweep(prefect_server, WEIGHTS, "--seeds", "0", "--name", "weights", SECONDS_EACH="2") for _ in "12"]

    for process in both:
        finish(process)

    assert trained(repo) == ONCE
    assert not (repo.path / ".state/sweeps/weights").exists()


@pytest.mark.parametrize("scheme", ["", "file://"], ids=["on this machine", "from a remote"])
def test_a_sweep_runs_the_files_it_started_on(repo: SweepRepo, tmp_path: Path, scheme: str) -> None:
    work, grid = repo.path / "work.py", Grid(grid=["method.rsd.weight=0.1"])
    before = work.read_text()
    first = prepare("weights", [grid], repo.path)
    work.write_text(f"{before}# of a second sweep of that name\n")
    prepare("weights", [grid], repo.path)

    (tmp_path / "cells").mkdir()
    cell = tmp_path / "cells" / "weights" / "cell"
    clone._prepare(cell, first.units[0], replace(first.project, source=f"{scheme}{repo.path}"), {})
    assert (cell / "work.py").read_text() == before


def test_a_clone_in_use_is_left_alone(tmp_path: Path) -> None:
    new = tmp_path / "cells" / UNIT.name
    new.mkdir(parents=True)

    with clone._alone(new, threading.Event()):
        clone.forget_others(tmp_path / "cells", ())
        assert new.exists()
    clone.forget_others(tmp_path / "cells", {UNIT.name})
    assert new.exists()
    clone.forget_others(tmp_path / "cells", ())
    assert not (tmp_path / "cells").exists()


def test_a_half_removed_clone_is_made_anew(repo: SweepRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepare("weights", [Grid(grid=["method.rsd.weight=0.1"])], repo.path)
    cell = tmp_path / "cells" / "weights" / "cell"
    cell.parent.mkdir(parents=True)
    clone._prepare(cell, ready.units[0], ready.project, {})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(clone.shutil, "rmtree", interrupted)
        clone._remove(cell)
    (cell / "work.py").unlink()
    clone._prepare(cell, ready.units[0], ready.project, {})
    assert (cell / "work.py").exists()


def interrupted(folder: Path) -> None:
    """What a removal does where it is killed at once."""
    (folder / ".git" / "index").unlink()
    raise KeyboardInterrupt


def test_workspaces_that_another_sweep_removes_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # as it was a moment ago

    clone.forget_others(tmp_path / "gone", ())


def test_a_wrong_grid_is_refused_before_the_server(repo: SweepRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo.path)
    monkeypatch.setattr(connection, "_started_server", lambda: pytest.fail("started a server"))

    with pytest.raises(SystemExit, match="error: the grid: no method.rsd.wieght in params.yaml; did you mean"):
        main(["method.rsd.wieght=1,2"])
    with pytest.raises(SystemExit, match=r"error: expected a sweep out of conf/sweep \(none\), found 'study'"):
        main(["study"])
    assert os.listdir(repo.seen) == []


def test_the_simulated_sweep_plans_runs_and_collects(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    rows = []
    for count in (20, 40):
        rows.append(simulated(str(repo.path), count, "method.rsd.weight", sleep=0.01))
        table = pd.read_csv(repo.path / "out/sweeps/simulated/table.csv")
        assert sorted(set(table["method.rsd.weight"])) == list(range(count))
    table = pd.DataFrame(rows)

    assert (repo.path / "out/sweeps/simulated/plot.png").is_file()
    assert (table[["plan, s", "plan, CPU s", "run, s", "collect, s", "peak memory, MB"]] > 0).all(axis=None)
    assert {"plan, CPU s", "run, s", "collect, s"} <= set(chart(table).to_json().split('"'))
