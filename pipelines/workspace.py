"""One writer per DVC workspace: flows that are started at once on one folder queue.

The lock is a file of the workspace, taken with flock(2), and not a limit of the Prefect server. It holds between
flows of different servers, of none, and of several machines that share the folder over a file system with locks
(NFS, Lustre, GPFS); and the kernel frees it the moment its last holder dies, while a server would wait for a lease
to run out. Commands that write to the workspace inherit the lock: where a flow is killed, the next one starts only
after the killed one's stage has ended, too.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

LOCK = Path(".dvc/tmp/flow.lock")
POLL_SECONDS = 0.5

_held: ContextVar[dict[Path, int]] = ContextVar("held", default={})  # noqa: B039 - never changed in place


@contextmanager
def one_writer(folder: Path, *, name: str, say: Callable[[str], None]) -> Iterator[int]:
    """Wait until no other flow writes to `folder`, then be the one, by `name`, until the block ends.

    Yields the descriptor of the lock, for `run_group(hold=...)`. A flow inside of a flow shares its lock.
    `say` gets one sentence if there is someone to wait for.
    """
    path = folder / LOCK
    if path in _held.get():
        yield _held.get()[path]
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait(descriptor, say=lambda holder: say(f"{folder} is in use by {holder}; waiting until it ends"))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{name} (process {os.getpid()} on {socket.gethostname()})".encode(), 0)
        token = _held.set(_held.get() | {path: descriptor})
        try:
            yield descriptor
        finally:
            _held.reset(token)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, *, say: Callable[[str], None]) -> None:
    waiting = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not waiting:
                say(os.pread(descriptor, 1000, 0).decode(errors="replace") or "another flow")
            waiting = True
            time.sleep(POLL_SECONDS)
