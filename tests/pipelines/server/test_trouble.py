"""What runs on a worker survives: a second flow, a cancel, a killed worker, a server that is away."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from prefect import Flow, flow, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from pipelines.server import lifecycle
from pipelines.server.automations import MOST_STARTS, create_automations
from pipelines.server.daemons import POOL, Daemon, Site
from tests.pipelines.conftest import ToyRepo, alive, wait_until
from tests.pipelines.sweep.sweep_project import SweepRepo

pytestmark = pytest.mark.slow


def start(repo: ToyRepo, *targets: str, **env: str) -> FlowRun:
    """Ask the worker for a run of `reproduce` in `repo`."""
    run = run_deployment(
        "reproduce/default",
        parameters={"root": str(repo.path), "targets": list(targets) or None},
        job_variables={"env": env},
        timeout=0,
        as_subflow=False,
    )
    assert isinstance(run, FlowRun)
    return run


def state(run: FlowRun) -> str:
    with get_client(sync_client=True) as client:
        now = client.read_flow_run(run.id).state
        return str(now.name) if now else ""


def log_of(run: FlowRun) -> str:
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
        return "\n".join(log.message for log in logs)


def wait_for(run: FlowRun, wanted: str, seconds: float = 120) -> None:
    wait_until(lambda: state(run) == wanted, seconds)


def held(repo: ToyRepo) -> int:
    """The process group of the stage that holds still, once it does."""
    note = repo.path / "seen" / "held.json"
    wait_until(note.exists, 120)
    return int(json.loads(note.read_text())["group"])


def kill(worker: psutil.Process) -> None:
    """SIGKILL to a worker and the flows that it started, until they are gone; their stages are left to their guards."""
    killed = [one for one in [worker, *worker.children(recursive=True)] if "prefect" in " ".join(one.cmdline())]
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=60)


def test_a_run_is_named_after_pair_methods_seeds(prefect_worker: Site, dvc_repo: ToyRepo) -> None:
    (dvc_repo.path / "params.yaml").write_text("fail: false\npair: toy/pair\nmethods: [rsd]\nseeds: [1, 2]\n")
    run = start(dvc_repo, "train")
    wait_for(run, "Completed")

    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).name == "reproduce toy/pair: rsd; seeds 1, 2"
        tasks = {task.name for task in client.read_task_runs()}
    assert "train@rsd of toy/pair" in tasks


def test_a_worker_started_by_hand_needs_no_settings(prefect_worker: Site, dvc_repo: ToyRepo, tmp_path: Path) -> None:
    ours = ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_CLIENT_MAX_RETRIES")
    bare = {name: value for name, value in prefect_worker.environment.items() if name not in ours}
    by_hand = Daemon("by-hand", prefect_worker.worker.command, tmp_path, bare)
    note = "import json, os, pathlib; pathlib.Path('beside.json').write_text(json.dumps(dict(os.environ)))"
    (dvc_repo.path / "work.py").write_text(note)
    prefect_worker.worker.stop()
    by_hand.start()
    try:
        wait_for(start(dvc_repo, "beside"), "Completed")
    finally:
        by_hand.stop()
        prefect_worker.worker.start()

    environment = json.loads((dvc_repo.path / "beside.json").read_text())
    assert [environment[name] for name in ours] == ["30", "7"]


def test_cancel_ends_every_process_and_dvc_repro_completes(
    prefect_worker: Site, prefect_server: dict[str, str], dvc_repo: ToyRepo
) -> None:
    run = start(dvc_repo, "beside", HOLD="beside")
    group = held(dvc_repo)
    command = [sys.executable, "-m", "prefect", "flow-run", "cancel", str(run.id)]
    subprocess.run(command, env={**os.environ, **prefect_server}, check=True, capture_output=True)
    wait_until(lambda: not alive(group), 60)
    wait_for(run, "Cancelled")

    dvc_repo.dvc("repro", "beside")
    assert [run["stage"] for run in dvc_repo.runs()] == ["beside"]


def test_two_flows_on_one_workspace_queue(prefect_worker: Site, dvc_repo: ToyRepo) -> None:
    first = start(dvc_repo, "train", STEPS="30")
    second = start(dvc_repo, "train", STEPS="30")
    for run in (first, second):
        wait_for(run, "Completed", 240)

    assert [run["stage"] for run in dvc_repo.runs()].count("train@rsd") == 1
    waited = [run for run in (first, second) if "is in use by reproduce" in log_of(run)]
    assert len(waited) == 1
    dvc_repo.dvc("status")


def test_make_server_resumes_a_killed_workers_run(prefect_worker: Site, dvc_repo: ToyRepo) -> None:
    run = start(dvc_repo, "train@rsd", STEPS="100")
    wait_until(lambda: steps_of(dvc_repo) > 20, 120)
    worker = prefect_worker.worker.running()
    assert worker is not None
    kill(worker)
    assert prefect_worker.worker.running() is None

    lines: list[str] = []
    lifecycle.start(prefect_worker, say=lines.append)
    wait_for(run, "Completed", 240)

    assert any(line.startswith("taken up     reproduce") for line in lines)
    assert [(ran["stage"], ran["first"] > 20) for ran in dvc_repo.runs()] == [("prepare", False), ("train@rsd", True)]


def test_a_run_that_never_begins_is_given_up(prefect_worker: Site, tmp_path: Path) -> None:
    """Its process dies before the flow starts, so that the server counts no start."""
    lifecycle.start(prefect_worker, say=lambda _: None)  # whatever other tests left of it
    (tmp_path / "broken.py").write_text("from prefect import flow\n\n@flow\ndef broken(): ...\n")
    broken = flow.from_source(str(tmp_path), "broken.py:broken")
    assert isinstance(broken, Flow)
    broken.deploy("default", work_pool_name=POOL)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    run = run_deployment("broken/default", timeout=0, as_subflow=False)
    assert isinstance(run, FlowRun)

    wait_for(run, "Cancelled", 600)
    time.sleep(5)  # a worker that had asked for it just before would take it by now

    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(run.id)
        states = [state.name for state in client.read_flow_run_states(run.id)]
    assert flow_run.run_count == 0
    each_start = ["Pending", "Crashed", "AwaitingRetry"]  # a death is reported twice, and counts once
    counted = [name for name in states if name in (*each_start, "Cancelled")]
    starts, end = counted[: 3 * (MOST_STARTS + 1)], counted[3 * (MOST_STARTS + 1) :]
    assert starts == each_start * (MOST_STARTS + 1)
    assert end in (["Cancelled"], ["Pending", "Cancelled"])  # the worker may be the first
    assert "expected this run to begin, found its process dead 6 times" in str(flow_run.state)


def test_a_killed_workers_sweep_resumes_from_its_checkpoint(
    prefect_worker: Site, tmp_path: Path, make_dvc_repo: Callable[[Path], ToyRepo]
) -> None:
    repo, held = SweepRepo(tmp_path / "project", make_dvc_repo), "distill-rsd-0 0.2"
    grid = {"name": "lost", "grid": ["method.rsd.weight=0.1,0.2"], "seeds": [0], "jobs": 1, "root": str(repo.path)}
    environment = {"SEEN": str(repo.seen), "HOLD": held}
    run = run_deployment(
        "sweep/default", parameters=grid, job_variables={"env": environment}, timeout=0, as_subflow=False
    )
    assert isinstance(run, FlowRun)
    wait_until(lambda: any(line["what"] == held for line in repo.noted("begin")), 240)
    worker = prefect_worker.worker.running()
    assert worker is not None
    kill(worker)
    (repo.seen / "go").touch()

    lifecycle.start(prefect_worker, say=print)
    wait_for(run, "Completed", 300)

    assert [line["steps"] for line in repo.noted("begin") if line["what"] == held] == [0, 7]
    assert Counter(line["what"] for line in repo.noted())["teacher"] == 1
    assert len([name for name in repo.experiments() if name.startswith("lost-0.")]) == 2


def test_the_server_alone_resumes_a_silent_run(prefect_worker: Site, dvc_repo: ToyRepo) -> None:
    """No `make server` here: another worker takes up what a lost machine had begun."""
    create_automations(POOL, lost_after=40)
    run = start(dvc_repo, "train@rsd", STEPS="100")
    wait_until(lambda: steps_of(dvc_repo) > 20, 120)
    worker = prefect_worker.worker.running()
    assert worker is not None
    kill(worker)
    prefect_worker.worker.start()
    try:
        wait_for(run, "Completed", 400)
    finally:
        create_automations(POOL, lost_after=lifecycle.LOST_SECONDS)

    assert dvc_repo.runs()[-1]["first"] > 20


def test_a_run_outlives_a_minute_without_its_server(prefect_worker: Site, dvc_repo: ToyRepo) -> None:
    run = start(dvc_repo, "train", "merge", STEPS="100")
    wait_until(lambda: steps_of(dvc_repo) > 5, 120)
    server = prefect_worker.server.running()
    assert server is not None
    for process in [server, *server.children(recursive=True)]:
        process.kill()
    time.sleep(60)
    lifecycle.start_server(prefect_worker, say=print)
    wait_for(run, "Completed", 300)

    assert [ran["stage"] for ran in dvc_repo.runs()].count("train@rsd") == 1
    assert dvc_repo.runs()[-1]["stage"] == "merge"
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(run.id).run_count == 1  # nobody took it for dead


def steps_of(repo: ToyRepo) -> int:
    """How far the training of `train@rsd` is, by its checkpoint."""
    note = repo.path / ".state" / "train@rsd"
    return int(note.read_text() or 0) if note.exists() else 0


def test_server_stop_ends_everything_and_start_resumes(prefect_worker: Site, dvc_repo: ToyRepo) -> None:
    run = start(dvc_repo, "train@rsd", STEPS="100")
    wait_until(lambda: steps_of(dvc_repo) > 20, 120)
    families = [daemon.running() for daemon in (prefect_worker.server, prefect_worker.worker, prefect_worker.reports)]
    processes = [one for process in families if process for one in [process, *process.children(recursive=True)]]
    lines: list[str] = []
    lifecycle.stop(prefect_worker, say=lines.append)

    assert [" ".join(line.split()) for line in lines] == ["worker stopped", "reports stopped", "server stopped"]
    assert not any(process.is_running() for process in processes)
    lifecycle.start(prefect_worker, say=print)
    wait_for(run, "Completed", 240)
    assert dvc_repo.runs()[-1]["first"] > 20


def test_a_second_start_leaves_everything_running_on_loopback(prefect_worker: Site) -> None:
    lines: list[str] = []
    lifecycle.start(prefect_worker, say=lines.append)

    assert [line.split()[0] for line in lines if "runs already" in line] == ["server", "reports", "worker"]
    for daemon in (prefect_worker.server, prefect_worker.reports):
        process = daemon.running()
        assert process is not None
        listening = [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
        assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
