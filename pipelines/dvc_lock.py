"""DVC's file of who reads and writes what, where it would stop every later command.

    python -m pipelines.dvc_lock      # `make repro` asks before it starts DVC

DVC rewrites the file in place, so that a power cut leaves it empty or half written. An entry of a killed command stays
until its process number is free; after a restart another program may have the number. A flow, the only one in its
workspace, mends both; DVC's own entries of commands that live stay.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from dvc.fs import localfs
from dvc.lock import LockError
from dvc.rwlock import RWLOCK_LOCK, RWLockFileCorruptedError, RWLockFileFormatError, _edit_rwlock

from rsd.machine.errors import UserError

FILE = Path(".dvc/tmp/rwlock")


def check(folder: Path) -> None:
    """Raise `UserError` with the one thing to do if the file would stop DVC for ever, or if a process holds it."""
    if fault := _fault(folder, mend=False):
        raise UserError(f"{fault}; once no other DVC command runs here, remove it: rm {FILE}")


def mend(folder: Path, say: Callable[[str], None]) -> None:
    """Remove a damaged file, or entries of processes that are gone, and say so; UserError if a process holds it."""
    if fault := _fault(folder, mend=True):
        say(f"{fault}; mended")


def _fault(folder: Path, *, mend: bool) -> str:
    file = folder / FILE
    if not file.is_file():
        return ""
    try:
        with _edit_rwlock(str(file.parent), localfs, False) as lock:
            entries = [*lock["write"].values(), *(entry for readers in lock["read"].values() for entry in readers)]
            gone = next((entry for entry in entries if _gone(entry)), None)
            if mend:
                lock["write"] = {path: entry for path, entry in lock["write"].items() if not _gone(entry)}
                lock["read"] = {
                    path: live
                    for path, readers in lock["read"].items()
                    if (live := [entry for entry in readers if not _gone(entry)])
                }
    except LockError as error:
        lock_file = file.with_name(RWLOCK_LOCK)
        raise UserError(
            f"expected no command to hold {FILE.with_name(RWLOCK_LOCK)}, found process {lock_file.read_text().strip()} "
            "holding it; wait until it ends, or stop it"
        ) from error
    except (RWLockFileCorruptedError, RWLockFileFormatError, UnicodeDecodeError):
        if mend:
            file.unlink(missing_ok=True)
        return f"expected {FILE} to say which DVC commands run here, found it damaged, as after a power cut"
    if gone is None:
        return ""
    return (
        f"expected the command `{gone['cmd']}` as process {gone['pid']}, as {FILE} says, found another program under "
        "that number"
    )


def _gone(entry: dict[str, Any]) -> bool:
    """Whether the process number of an entry is another program's, or nobody's that still runs.

    DVC itself forgets a number that is free.
    """
    try:
        command = psutil.Process(entry["pid"]).cmdline()
    except psutil.ZombieProcess:
        return True
    except (psutil.Error, ValueError):
        return False
    return not " ".join(command).endswith(entry["cmd"].partition(" ")[2])


if __name__ == "__main__":
    try:
        check(Path())
    except UserError as error:
        sys.exit(f"error: {error}")
