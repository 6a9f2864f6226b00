"""The state of unfinished runs: a folder for each, named by a digest of its inputs, and a lock."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from rsd.machine import parallel
from rsd.machine.errors import UserError
from rsd.machine.files import sha256

STATE = Path(".state")
_locks: dict[Path, TextIO] = {}  # the locks that this process holds


def code_digests() -> dict[str, str]:
    """SHA-256 of every loaded file of this project, by path; the running stage and the user's methods included."""
    project = Path(__file__).parents[2]
    # A user's methods lie in the current folder (rsd.methods.OWN).
    rooms = {"rsd": project / "rsd", "stages": project / "stages", "methods": Path("methods").resolve()}
    loaded = {Path(file).resolve() for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    return {
        f"{name}/{path.relative_to(room)}": sha256(path)
        for path in sorted(loaded)
        for name, room in rooms.items()
        if path.is_relative_to(room)
    }


def software_versions() -> dict[str, str]:
    """Versions of the software that the numbers depend on."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")},
    }


def state_file(run: str, inputs: Mapping[str, object], *, root: Path = STATE) -> Path:
    """The file for the unfinished state of `run`, such as `rsd-0`, with exactly these inputs.

    Its folder is named by a digest of `inputs`, the loaded code and the software versions. A killed run therefore
    finds its state again; a changed run starts afresh, and the state of the earlier one is removed. The leading process
    holds the lock of the run until it ends or calls `forget`.

    Raises:
        UserError: another process holds the lock.
    """
    if parallel.leads():
        _hold(root / f"{run}.lock")
    parallel.wait()
    everything = {"inputs": inputs, "code": code_digests(), "versions": software_versions()}
    digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
    for stale in (root / run).glob("*"):
        if stale.name != digest:
            shutil.rmtree(stale, ignore_errors=True)  # several processes may do so at once
    return root / run / digest / "checkpoint.pt"


def _hold(path: Path) -> None:
    path = path.resolve()
    if path in _locks:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        # A record lock ends with its process, and forked children do not inherit it. So data workers that outlive a
        # killed training for a moment do not lock out the process that resumes it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        with file:
            file.seek(0)
            raise UserError(
                f"expected no other process at the run '{path.stem}' of this folder, found process {file.read()}; "
                "wait until it ends, or end it, and run the same command again"
            ) from error
    except OSError:
        pass  # a file system without locks: go on without one
    file.truncate(0)
    file.write(f"{os.getpid()} on {platform.node()}")
    file.flush()
    _locks[path] = file


def forget(path: Path) -> None:
    """Remove the state of a finished run, and release its lock."""
    folder = path.parent.parent
    shutil.rmtree(folder, ignore_errors=True)
    if lock := _locks.pop(folder.with_name(f"{folder.name}.lock").resolve(), None):
        lock.close()
