"""One writer per workspace, for as long as anything of it lives."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from pipelines.process_group import run_group
from pipelines.workspace import LOCK, one_writer
from tests.pipelines.conftest import PROJECT, wait_until

HOLD = """
import sys, time
from pathlib import Path
from pipelines.process_group import run_group
from pipelines.workspace import one_writer
with one_writer(Path(sys.argv[1]), name="first", say=print) as lock:
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up'); time.sleep(3)"
    run_group([sys.executable, "-c", stubborn], Path("."), say=lambda line: print(line, flush=True), hold=[lock])
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds `folder` with a stage that will not be interrupted, once it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_the_second_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    first = holder(tmp_path)
    lines: list[str] = []
    with one_writer(tmp_path, name="second", say=lines.append):
        assert first.wait(timeout=5) == 0

    assert len(lines) == 1
    assert f"{tmp_path} is in use by first (process {first.pid} on " in lines[0]


def test_a_killed_flows_stage_keeps_the_workspace(tmp_path: Path) -> None:
    first = holder(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    lines: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with one_writer(tmp_path, name="second", say=lines.append):
            entered.set()

    threading.Thread(target=second, daemon=True).start()
    assert not entered.wait(1)  # the stage ignores its interrupt, and still writes
    wait_until(entered.is_set, 20)
    assert len(lines) == 1


def test_only_a_flow_inside_shares_the_lock(tmp_path: Path) -> None:
    with one_writer(tmp_path, name="outer", say=print) as outer:
        with one_writer(tmp_path, name="inner", say=print) as inner:
            assert inner == outer
        tried: list[str] = []
        thread = threading.Thread(target=_try, args=[tmp_path, tried], daemon=True)
        thread.start()
        wait_until(lambda: len(tried) == 1, 5)
        assert tried[0].startswith("waits")
    thread.join(5)
    assert tried[1:] == ["in"]


def test_git_does_not_see_the_lock(tmp_path: Path) -> None:
    assert LOCK.parts[:2] == (".dvc", "tmp")
    with one_writer(tmp_path, name="one", say=print) as lock:
        assert run_group([sys.executable, "-c", "pass"], tmp_path, hold=[lock]).status == 0


def _try(folder: Path, tried: list[str]) -> None:
    with one_writer(folder, name="thread", say=lambda line: tried.append(f"waits: {line}")):
        tried.append("in")
