"""One writer per DVC workspace: flows that are started at once on one folder queue.

The lock is a file, taken with flock(2). A concurrency limit of the Prefect server would hold only between flows of one
server, and would outlive a killed flow until its lease runs out; DVC's own locks hold for one command. The file holds
between flows of different servers, of none, and of several machines that share the folder over a file system with locks
(NFS, Lustre, GPFS), and the kernel frees it the moment its last holder dies. Commands that write to the workspace
inherit the lock: where a flow is killed, the next one starts only after the killed flow's stage has ended, too.
"""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pipelines.dvc_lock import mend

LOCK = Path(".dvc/tmp/flow.lock")
POLL_SECONDS = 0.5

_held: ContextVar[dict[Path, int]] = ContextVar("held", default={})  # noqa: B039 - never changed in place


@contextmanager
def locked(path: Path, *, wait: Callable[[int], None]) -> Iterator[int]:
    """Hold the lock of the file `path` for the block; yields its descriptor, for `run_group(hold=...)`.

    While another process holds it, `wait` gets the descriptor every `POLL_SECONDS`; it may raise to give up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait(descriptor)
                time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def one_writer(folder: Path, *, name: str, say: Callable[[str], None]) -> Iterator[int]:
    """Wait until no other flow writes to `folder`, then be its writer, by `name`, until the block ends.

    Yields the descriptor of the lock, for `run_group(hold=...)`. A flow inside another flow shares its lock.
    `say` gets a sentence if there is a flow to wait for, or a lock of DVC to mend.
    """
    path = folder / LOCK
    if path in _held.get():
        yield _held.get()[path]
        return
    waiting = False

    def wait(descriptor: int) -> None:
        nonlocal waiting
        if not waiting:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace") or "another flow"
            say(f"{folder} is in use by {holder}; waiting until it ends")
        waiting = True

    with locked(path, wait=wait) as descriptor:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{name} (process {os.getpid()} on {socket.gethostname()})".encode(), 0)
        mend(folder, say)
        token = _held.set(_held.get() | {path: descriptor})
        try:
            yield descriptor
        finally:
            _held.reset(token)
