"""What a stage's process prints, and that nothing of it is left behind."""

import signal
import sys
import threading
import time
from io import StringIO
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from pipelines import process_group
from pipelines.process_group import log_lines, run_group
from tests.pipelines.conftest import wait_until


def test_a_progress_bar_becomes_few_lines() -> None:
    bar = "".join(f"\r{number}/1000\x1b[0m" for number in range(1000))
    output = StringIO(f"{bar}\rdone é\nnext\r\n\nlast", newline="")

    assert [*log_lines(output, every=3600)] == ["0/1000", "done é", "next", "last"]


def test_a_line_without_end_is_cut() -> None:
    assert [*log_lines(StringIO(20_500 * "."))] == [10_000 * ".", 10_000 * ".", 500 * "."]


def test_output_cut_inside_a_character_arrives_whole(tmp_path: Path) -> None:
    slowly = (
        "import sys\nfor byte in 'größe: 3 µm'.encode(): sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush()"
    )

    assert run_group([sys.executable, "-c", slowly], tmp_path) == (0, ["größe: 3 µm"])


def test_a_process_that_leaves_the_group_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 0.5)
    sleep = "import time; time.sleep(5)"
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True)"
    start = time.monotonic()

    assert run_group([sys.executable, "-c", f"{leave}; print('left')"], tmp_path) == (0, ["left"])
    assert time.monotonic() - start < 4


def test_an_error_in_say_ends_the_group(tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="up"):
        run_group([sys.executable, "-c", "import time; print('up'); time.sleep(60)"], tmp_path, say=say)


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


def test_a_stages_leftover_process_neither_blocks_nor_survives(tmp_path: Path) -> None:
    leave = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    start = time.monotonic()

    status, lines = run_group([sys.executable, "-c", leave], tmp_path)

    assert status == 0
    assert time.monotonic() - start < 20
    wait_until(lambda: not psutil.pid_exists(int(lines[0])), 5)
