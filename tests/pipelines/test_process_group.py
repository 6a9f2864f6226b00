"""What a stage's process prints, and that nothing of it is left behind."""

import signal
import sys
import threading
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from pipelines import process_group
from pipelines.process_group import Lines, run_group
from tests.pipelines.conftest import wait_until


def test_a_progress_bar_becomes_few_lines_and_its_end_is_kept() -> None:
    said: list[str] = []
    lines = Lines(said.append, every=3600)
    for number in range(1000):
        lines.feed(f"\r{number}/1000\x1b[0m".encode())
    lines.feed("\rdone é\n".encode())
    lines.feed(b"next\r\n\nlast")
    lines.feed(b"", last=True)

    assert said == ["0/1000", "done é", "next", "last"]


def test_a_line_cut_in_the_middle_of_a_character_arrives_whole() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for byte in "größe: 3 µm\n".encode():
        lines.feed(bytes([byte]))

    assert said == ["größe: 3 µm"]


def test_a_group_that_ignores_the_interrupt_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 0.5)
    stop = threading.Event()

    def say(line: str) -> None:
        stop.set()

    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up'); time.sleep(60)"
    start = time.monotonic()
    ended = run_group([sys.executable, "-c", stubborn], tmp_path, say=say, stop=stop)

    assert ended == (-signal.SIGKILL, ["up"])
    assert time.monotonic() - start < 20


def test_a_process_left_behind_by_a_stage_neither_blocks_nor_survives(tmp_path: Path) -> None:
    leave = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    start = time.monotonic()

    status, lines = run_group([sys.executable, "-c", leave], tmp_path)

    assert status == 0
    assert time.monotonic() - start < 20
    wait_until(lambda: not psutil.pid_exists(int(lines[0])), 5)
