"""A Prefect server for the session and a small real DVC project to run on it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

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
value = 1 + sum(json.loads(Path(name).read_text())["value"] for name in inputs)
time.sleep(0.1)
if stage == "benchmark":
    value += time.time() - start
Path(out).write_text(json.dumps({"value": value}))
with open("seen/runs.jsonl", "a") as file:
    file.write(json.dumps({"stage": stage, "start": start, "end": time.time(), "prefix": sys.prefix}) + "\\n")
"""


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One throw-away server for the session; yields the environment that lets a subprocess use it."""
    home = tmp_path_factory.mktemp("prefect")
    settings = {PREFECT_HOME: home, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    with temporary_settings(settings), prefect_test_harness(server_startup_timeout=120):
        url = PREFECT_API_URL.value()
        assert url is not None
        yield {"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}


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


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares this folder's session fixtures runs in one process."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("prefect"))
