"""Run one command in a process group of its own: follow its output, and leave none of its processes behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple, TextIO

PROGRESS_SECONDS = 5.0
"""A progress bar becomes at most one log line in this time."""
GRACE_SECONDS = 10.0
"""How long an interrupted group may take to save its state before it is killed."""
LONGEST_LINE = 10_000
TAIL_LINES = 200
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# Waits until this process is gone, even by SIGKILL, then ends the group ($1).
GUARD = 'read -r _; kill -s INT -- "-$1" && sleep "$2"; kill -s KILL -- "-$1"'


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    """Its exit status; negative: the signal that killed it."""
    lines: list[str]
    """The last `TAIL_LINES` of its output."""


def run_group(
    command: list[str],
    folder: Path,
    *,
    say: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
    hold: Sequence[int] = (),
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Run `command` in a process group of its own, and end the whole group with it.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        say: gets each line of its output.
        stop: when it is set, the group is interrupted, as by Ctrl-C (DVC releases its locks, the stage saves its
            state), and killed after `GRACE_SECONDS`.
        hold: descriptors of locks that the group inherits: a lock lasts as long as any process of the group.
        variables: added to its environment.
    """
    here = Path(sys.executable).parent  # `python` in a stage's command is this interpreter, activated or not
    environment = {
        **os.environ,
        **(variables or {}),
        "PATH": os.pathsep.join([str(here), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",  # or a stage's lines arrive when it ends, after its error
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=hold,
    )
    assert process.stdout is not None
    output = TextIOWrapper(process.stdout, encoding="utf-8", errors="replace", newline="")
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    problems: list[Exception] = []

    def follow() -> None:
        try:
            with output:
                for line in log_lines(output):
                    tail.append(line)
                    say(line)
        except Exception as error:
            problems.append(error)

    reader = threading.Thread(target=copy_context().run, args=[follow], daemon=True)
    deadline = float("inf")
    with _guarded(process.pid):
        reader.start()
        try:
            while time.monotonic() < deadline and not problems:
                if stop is not None and stop.is_set() and deadline == float("inf"):
                    _signal_group(process.pid, signal.SIGINT)
                    deadline = time.monotonic() + GRACE_SECONDS
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
                    break
        finally:
            _signal_group(process.pid, signal.SIGKILL)  # its output ends with it
            process.wait()
            reader.join(GRACE_SECONDS)  # unless a process that left the group holds the pipe
    if problems:
        raise problems[0]
    return Ended(process.returncode, list(tail))


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


@contextmanager
def _guarded(group: int) -> Iterator[None]:
    """End `group` if this process dies inside the block, even by SIGKILL: the kernel closes the pipe then."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "guard", str(group), str(GRACE_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.wait()
        assert guard.stdin is not None
        guard.stdin.close()


def log_lines(output: TextIO, every: float = PROGRESS_SECONDS) -> Iterator[str]:
    """The log lines of a terminal's character stream, opened with `newline=""`.

    A line that ends in a carriage return may still be overwritten, as a progress bar is. Of such lines one is given in
    `every` seconds. Escape sequences are dropped.
    """
    text, last_time = "", float("-inf")
    while line := output.readline(LONGEST_LINE):
        text = ESCAPE.sub("", line).rstrip() or text
        now, final = time.monotonic(), not line.endswith("\r")
        if text and (final or now - last_time >= every):
            yield text
            text, last_time = "", last_time if final else now
    if text:
        yield text
