"""Run one command in a process group of its own: follow its output, and leave none of its processes behind."""

import codecs
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

PROGRESS_SECONDS = 5.0
"""A progress bar becomes at most one log line in this time."""
GRACE_SECONDS = 10.0
"""How long an interrupted group may take to save its state before it is killed."""
LONGEST_LINE = 10_000
TAIL_LINES = 200

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
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def keep_and_say(line: str) -> None:
        tail.append(line)
        say(line)

    lines = Lines(keep_and_say)
    deadline = float("inf")
    try:
        with _guarded(process.pid), selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if stop is not None and stop.is_set() and deadline == float("inf"):
                    _signal_group(process.pid, signal.SIGINT)
                    deadline = time.monotonic() + GRACE_SECONDS
                if selector.select(timeout=0.2):
                    chunk = os.read(process.stdout.fileno(), 1 << 16)
                    if not chunk:
                        break
                    lines.feed(chunk)
                elif process.poll() is not None:  # a grandchild keeps the pipe open; there is no more to read
                    break
            lines.feed(b"", last=True)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, min(GRACE_SECONDS, deadline - time.monotonic())))
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
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


class Lines:
    """Turns a terminal's character stream into log lines.

    A line that ends in a newline is passed to `say`. A line that ends in a carriage return may still be overwritten, as
    a progress bar is: such lines are passed at most once in `every` seconds. Escape sequences are dropped.
    """

    _ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

    def __init__(self, say: Callable[[str], None], every: float = PROGRESS_SECONDS) -> None:
        self._say = say
        self._every = every
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest = ""
        self._text = ""
        self._last_time = float("-inf")

    def feed(self, chunk: bytes, *, last: bool = False) -> None:
        pieces = re.split(r"(?<=[\r\n])", self._rest + self._decode(chunk, final=last))
        self._rest = "" if last or len(pieces[-1]) > LONGEST_LINE else pieces.pop()
        for piece in pieces:
            if text := self._ESCAPE.sub("", piece).rstrip("\r\n"):
                self._text = text.rstrip()
            now = time.monotonic()
            final = last or piece.endswith("\n") or len(piece) > LONGEST_LINE  # as a row of dots is
            if self._text and (final or now - self._last_time >= self._every):
                self._say(self._text)
                if not final:
                    self._last_time = now
                self._text = ""
