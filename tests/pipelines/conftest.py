"""A Prefect server for the session and a small real DVC project to run on it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil  # type: ignore[import-untyped]
import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import Artifact
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from pipelines.artifacts import OUT_URL, SERVED, publish
from pipelines.outcome import StageRun
from pipelines.progress import ProgressArtifact
from pipelines.server import lifecycle
from pipelines.server.daemons import Site
from tests.rsd.report.conftest import write_records

PROJECT = Path(__file__).parents[2]

# Prefect 3.8 trips over its own clean-up at the end of a process that was forked after a flow had run, such as a
# data loader's worker in a later test; whatever it would clean up is the parent's.
os.register_at_fork(after_in_child=getattr(threading, "_threading_atexits", []).clear)

# A diamond (prepare, two cells of train, merge), a stage beside it, one that can fail with one behind it, a
# benchmark that must be alone, and its report.
DVC_YAML = """
stages:
  prepare:
    cmd: python work.py prepare.json
    deps: [work.py]
    outs: [prepare.json]
  train:
    matrix:
      method: [rsd, scratch]
    cmd: python work.py train-${item.method}.json prepare.json
    deps: [work.py, prepare.json]
    outs: ["train-${item.method}.json"]
  merge:
    cmd: python work.py merge.json train-rsd.json train-scratch.json
    deps: [work.py, train-rsd.json, train-scratch.json]
    metrics: [merge.json: {cache: false}]
  beside:
    cmd: python work.py beside.json
    deps: [work.py]
    outs: [beside.json]
  shaky:
    cmd: python work.py shaky.json prepare.json
    deps: [work.py, prepare.json]
    params: [fail]
    outs: [shaky.json]
  behind:
    cmd: python work.py behind.json shaky.json
    deps: [work.py, shaky.json]
    outs: [behind.json]
  benchmark:
    cmd: python work.py benchmark.json train-rsd.json
    deps: [work.py, train-rsd.json]
    outs: [benchmark.json]
    meta: {alone: true, measured: true}
  report:
    cmd: python work.py report.json benchmark.json
    deps: [work.py, benchmark.json]
    outs: [report.json]
    meta: {measured: true}
"""

WORK = """
import json, os, subprocess, sys, time
from pathlib import Path

out, *inputs = sys.argv[1:]
stage = os.environ["DVC_STAGE"]
seen = Path("seen")
seen.mkdir(exist_ok=True)
start = time.time()
if os.environ.get("MEET") and stage.startswith("train@"):  # neither cell ends before the other has started
    (seen / stage).touch()
    while len(list(seen.glob("train@*"))) < 2:
        if time.time() - start > 60:
            sys.exit("error: the other cell never started")
        time.sleep(0.05)
if os.environ.get("HOLD") == stage:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (seen / "writing").write_text(json.dumps({"group": os.getpgrp()}))
    (seen / "writing").rename(seen / "held.json")
    time.sleep(300)
if stage == "shaky" and "true" in Path("params.yaml").read_text():
    print("clouds gather")
    sys.exit("error: expected calm, found a storm; wait")
first = 0
if os.environ.get("STEPS") and stage.startswith("train@"):  # a training with a checkpoint
    state = Path(".state") / stage
    state.parent.mkdir(exist_ok=True)
    first = int(state.read_text()) if state.exists() else 0
    for step in range(first, int(os.environ["STEPS"])):
        time.sleep(0.1)
        state.with_suffix(".writing").write_text(str(step + 1))
        state.with_suffix(".writing").replace(state)
        percent = 100 * (step + 1) // int(os.environ["STEPS"])
        print(f"{stage}: {percent:3d}%|#####     | {step + 1} [00:01<00:01]", end="\\r", file=sys.stderr, flush=True)
    state.unlink()
value = 1 + sum(json.loads(Path(name).read_text())["value"] for name in inputs)
time.sleep(0.1)
if stage == "benchmark":
    value += time.time() - start
Path(out).write_text(json.dumps({"value": value}))
with open("seen/runs.jsonl", "a") as file:
    ran = {"stage": stage, "start": start, "end": time.time(), "first": first, "prefix": sys.prefix}
    file.write(json.dumps(ran) + "\\n")
"""


@pytest.fixture(scope="session")
def prefect_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The one server of the session, as `make server` starts it, with a home and a port of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "RSD_WORKSPACE", "RSD_OUT_URL"):
            patch.delenv(name, raising=False)
        home = tmp_path_factory.mktemp("prefect")
        place = Site(PROJECT, home, free_ports(), elsewhere=None)
        with temporary_settings({PREFECT_HOME: home, PREFECT_API_URL: f"{place.page}/api"}):
            lifecycle.start_server(place, say=lambda _: None)
            try:
                yield place
            finally:
                lifecycle.stop(place, say=lambda _: None)


@pytest.fixture(scope="session")
def prefect_server(prefect_site: Site) -> dict[str, str]:
    """The environment that lets a subprocess use the server of the session."""
    return {"PREFECT_API_URL": f"{prefect_site.page}/api", "PREFECT_HOME": str(prefect_site.home)}


@pytest.fixture(scope="session")
def prefect_worker(prefect_site: Site) -> Site:
    """The server with every deployment and a worker on it."""
    lifecycle.start(prefect_site, say=lambda _: None)
    return prefect_site


def free_ports() -> int:
    """A port that is free, and so is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port


class ToyRepo:
    """The DVC project above in a folder of its own."""

    def __init__(self, path: Path, template: Path) -> None:
        self.path = path
        shutil.copytree(template, path)
        (path / "dvc.yaml").write_text(DVC_YAML)
        (path / "work.py").write_text(WORK)
        self.set_failing(False)

    def set_failing(self, fail: bool) -> None:
        (self.path / "params.yaml").write_text(f"fail: {str(fail).lower()}\n")

    def dvc(self, *arguments: str) -> str:
        """Run DVC as a user with an activated environment does."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=self.path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def runs(self) -> list[dict[str, Any]]:
        """What ran to its end, in the order of ending: stage, start, end, prefix."""
        log = self.path / "seen" / "runs.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="session")
def make_dvc_repo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], ToyRepo]:
    """Builds the project in a folder; `git init` and `dvc init` are paid once."""
    template = tmp_path_factory.mktemp("template")
    subprocess.run(["git", "init", "-q"], cwd=template, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=template, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=template, check=True)
    return partial(ToyRepo, template=template)


@pytest.fixture
def dvc_repo(tmp_path: Path, make_dvc_repo: Callable[[Path], ToyRepo]) -> ToyRepo:
    return make_dvc_repo(tmp_path / "project")


@pytest.fixture
def artifacts(
    prefect_server: dict[str, str], dvc_repo: ToyRepo, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Artifact]:
    """What a run with results leaves, by key, in a project whose `out/` is served."""
    write_records(dvc_repo.path / "out")
    (dvc_repo.path / "out" / "report.html").write_text("<h1>the report</h1>")
    (dvc_repo.path / "merge.json").write_text('{"value": 1}')
    monkeypatch.setenv(OUT_URL, "http://127.0.0.1:1")
    monkeypatch.setenv(SERVED, str(dvc_repo.path))
    return left_by(dvc_repo.path)


def left_by(folder: Path) -> dict[str, Artifact]:
    """The artifacts of a run in `folder`, by key, with the progress of a stage."""

    @flow
    def leaves() -> UUID:
        from prefect.runtime import flow_run

        progress = ProgressArtifact("distill@rsd-0")
        progress.say("rsd-0:  48%|####8     | 17216/35840 [00:10<00:10, 1719.82 images/s]")
        progress.end(good=False)
        publish(folder, [StageRun("evaluate", "ran", 1.0)])
        return UUID(flow_run.id)

    run = leaves()
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    return {str(one.key): one for one in artifacts if one.flow_run_id == run}


def alive(group: int) -> list[int]:
    """The processes of a group, without those that are dead and wait to be reaped."""
    pids = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                pids.append(process.pid)
        except ProcessLookupError:
            continue
    return pids


def wait_until(holds: Callable[[], bool], seconds: float, process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that happens while `process`, whose output is a pipe, runs."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None and not holds():
            raise AssertionError(f"the process ended with status {process.returncode}:\n{process.communicate()[0]}")
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares this folder's session fixtures runs in one process.

    Slow tests mostly wait for a worker, so those of each folder run in a process of their own, with a server.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            slow = item.get_closest_marker("slow") is not None
            item.add_marker(pytest.mark.xdist_group(f"prefect {item.path.parent.name}" if slow else "prefect"))
