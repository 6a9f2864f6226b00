"""The flow gives what `dvc repro` gives, beside what Prefect adds: parallel, shown, stopped cleanly."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client

from pipelines.dvc_graph import stages
from pipelines.outcome import StageError, StageRun
from pipelines.process_group import GRACE_SECONDS
from pipelines.reproduce import main, reproduce
from pipelines.server import connection
from rsd.machine.errors import UserError
from tests.pipelines.conftest import ToyRepo, alive, wait_until
from tests.pipelines.lock import lock_entries

PROJECT = Path(__file__).parents[2]
Built = tuple[ToyRepo, list[StageRun]]


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory,
    make_dvc_repo: Callable[[Path], ToyRepo],
    prefect_server: dict[str, str],
) -> Built:
    """The toy project after one run of the flow, two stages at a time."""
    repo = make_dvc_repo(tmp_path_factory.mktemp("flow") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEET", "1")
        return repo, reproduce(root=str(repo.path), jobs=2)


def run_module(
    repo: ToyRepo, server: dict[str, str], *arguments: str, deaf: bool = False, **extra: str
) -> subprocess.Popen[str]:
    """Start `python -m pipelines.reproduce` in `repo`, as the user's terminal would: a group of its own.

    `deaf` to Ctrl-C, as a shell starts what is followed by `&`.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.reproduce", *arguments],
        cwd=repo.path,
        env={**os.environ, **server, "PYTHONPATH": str(PROJECT), **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN if deaf else signal.SIG_DFL),
    )


def overlap(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first["start"] < second["end"] and second["start"] < first["end"]


def test_every_stage_runs_once_and_after_its_upstream(built: Built) -> None:
    repo, runs = built
    nodes = stages(repo.path)
    ran = {run["stage"]: run for run in repo.runs()}

    assert sorted(run["stage"] for run in repo.runs()) == sorted(node.address for node in nodes)
    assert {run.stage: run.state for run in runs} == {node.address: "ran" for node in nodes}
    for node in nodes:
        for name in node.upstream:
            assert ran[name]["end"] <= ran[node.address]["start"]


def test_independent_cells_run_side_by_side(built: Built) -> None:
    ran = {run["stage"]: run for run in built[0].runs()}

    assert overlap(ran["train@rsd"], ran["train@scratch"])


def test_no_more_stages_run_at_once_than_jobs(built: Built) -> None:
    for trio in combinations(built[0].runs(), 3):
        assert not all(overlap(first, second) for first, second in combinations(trio, 2))


def test_a_stage_marked_alone_overlaps_with_none(built: Built) -> None:
    *others, benchmark = sorted(built[0].runs(), key=lambda run: bool(run["stage"] == "benchmark"))

    assert benchmark["stage"] == "benchmark"
    assert not any(overlap(benchmark, other) for other in others)


def test_python_in_a_stage_is_the_flows_interpreter(built: Built) -> None:
    assert {run["prefix"] for run in built[0].runs()} == {sys.prefix}


def test_the_result_equals_that_of_dvc_repro(
    built: Built, tmp_path: Path, make_dvc_repo: Callable[[Path], ToyRepo]
) -> None:
    twin = make_dvc_repo(tmp_path / "twin")
    twin.dvc("repro")

    assert lock_entries(built[0].path) == lock_entries(twin.path)
    assert len(lock_entries(twin.path)) == len(stages(twin.path)) - 2  # the measured ones


def test_metrics_and_stages_are_published_as_artifacts(built: Built) -> None:
    with get_client(sync_client=True) as client:
        published = {(artifact.key, str(artifact.data)) for artifact in client.read_artifacts()}

    table = json.dumps([asdict(run) for run in built[1]])
    assert ("stages", table) in published
    assert any(key == "metrics" and "merge.json" in data for key, data in published)


def test_a_second_run_executes_nothing(built: Built) -> None:
    repo, _ = built
    before = repo.runs()

    again = reproduce(root=str(repo.path))

    assert {run.state for run in again} == {"unchanged"}
    assert repo.runs() == before


def test_one_slot_and_one_target_are_enough(dvc_repo: ToyRepo, prefect_server: dict[str, str]) -> None:
    runs = reproduce(root=str(dvc_repo.path), targets=["train@rsd"], jobs=1)

    assert [run.stage for run in runs] == ["prepare", "train@rsd"]
    assert [run["stage"] for run in dvc_repo.runs()] == ["prepare", "train@rsd"]


def test_no_slots_are_refused_with_a_sentence(dvc_repo: ToyRepo, prefect_server: dict[str, str]) -> None:
    with pytest.raises(UserError, match="jobs: expected at least 1, found 0"):
        reproduce(root=str(dvc_repo.path), jobs=0)


def test_a_failed_stage_stops_only_its_dependents(dvc_repo: ToyRepo, prefect_server: dict[str, str]) -> None:
    dvc_repo.dvc("repro", "prepare")
    dvc_repo.set_failing(True)
    process = run_module(dvc_repo, prefect_server)
    shown = process.communicate(timeout=240)[0]

    assert process.returncode == 1
    assert shown.splitlines()[-1] == "error: stage shaky failed: expected calm, found a storm; wait"
    assert "Traceback" not in shown
    assert "clouds gather" in shown
    assert "stage prepare: unchanged" in shown
    # The benchmark waits for shaky to end only so as to be alone: it reads nothing of it.
    assert {node.address for node in stages(dvc_repo.path)} - {run["stage"] for run in dvc_repo.runs()} == {
        "shaky",
        "behind",
    }


def test_a_failed_stage_raises_for_the_caller(dvc_repo: ToyRepo, prefect_server: dict[str, str]) -> None:
    (dvc_repo.path / "work.py").write_text("print('odd'); 1 / 0")

    with pytest.raises(StageError, match="stage beside failed: ZeroDivisionError: division by zero"):
        reproduce(root=str(dvc_repo.path), targets=["beside"])


def test_a_wrong_target_fails_before_the_server_starts(dvc_repo: ToyRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dvc_repo.path)
    monkeypatch.setattr(connection, "_started_server", lambda: pytest.fail("started a server"))

    with pytest.raises(SystemExit, match="error: no stage named trian"):
        main(["trian"])


@pytest.mark.parametrize(
    ("number", "deaf"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, False)],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM in the background", "SIGKILL"],
)
def test_a_stopped_flow_leaves_no_process(
    dvc_repo: ToyRepo, prefect_server: dict[str, str], number: signal.Signals, deaf: bool
) -> None:
    process = run_module(dvc_repo, prefect_server, "beside", deaf=deaf, HOLD="beside")
    held = dvc_repo.path / "seen" / "held.json"
    wait_until(held.exists, 90)
    group = json.loads(held.read_text())["group"]
    assert group not in (process.pid, os.getpgrp())
    assert len(alive(group)) >= 3  # DVC, the stage and the child of the stage

    process.send_signal(number)
    shown = process.communicate(timeout=60)[0]

    # Killed, the flow cannot end its stage itself: its guard does, with the patience a stage is due.
    wait_until(lambda: not alive(group), GRACE_SECONDS + 10 if number == signal.SIGKILL else 1)
    assert process.returncode != 0
    if number != signal.SIGKILL:
        assert shown.splitlines()[-1].startswith("error: stopped")
    wait_until(lambda: not exists(group), 10)  # DVC takes a process for alive that nobody has reaped yet
    dvc_repo.dvc("repro", "beside")
    assert [run["stage"] for run in dvc_repo.runs()] == ["beside"]


def exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
