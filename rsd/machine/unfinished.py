"""The work that a kill leaves behind: where it lies, and whose it is. Named by everything that shaped it."""

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
from typing import Any, TextIO

from rsd.machine import parallel
from rsd.machine.errors import UserError
from rsd.machine.files import sha256

STATE = Path(".state")
_held: dict[Path, TextIO] = {}
"""The locks of the runs that are this process's own."""


def code_digests() -> dict[str, str]:
    """SHA-256 of every file of this project that is loaded, by path: the started stage and own methods included."""
    project = Path(__file__).parents[2]
    # A user's own methods lie where the stage was started (rsd.methods.OWN).
    rooms = {"rsd": project / "rsd", "stages": project / "stages", "methods": Path("methods").resolve()}
    loaded = {Path(file).resolve() for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    return {
        f"{name}/{path.relative_to(room)}": sha256(path)
        for path in sorted(loaded)
        for name, room in rooms.items()
        if path.is_relative_to(room)
    }


def software_versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")},
    }


def state_file(run: str, inputs: Mapping[str, Any], *, root: Path = STATE) -> Path:
    """Where the unfinished state of `run` (such as `rsd-0`) with exactly these inputs lives.

    The folder is named by a digest of `inputs`, the loaded code and the software versions: a killed run
    finds its state again, a changed one starts afresh, and the state of the unchanged one is removed.
    The run is this process's alone from here on (of several processes: the leading one's), until it ends or forgets
    the run.

    Raises:
        UserError: another process has it.
    """
    if parallel.leads():
        _hold(root / f"{run}.lock")
    parallel.wait()
    everything = {"inputs": inputs, "code": code_digests(), "versions": software_versions()}
    digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
    for stale in (root / run).glob("*"):
        if stale.name != digest:
            shutil.rmtree(stale, ignore_errors=True)  # each of several processes does it
    return root / run / digest / "checkpoint.pt"


def _hold(path: Path) -> None:
    path = path.resolve()
    if path in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        # A record lock goes when its process does, however it ends, and is not the forked children's: data workers
        # that outlive a killed training for a moment do not keep out the one that resumes.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        with file:
            file.seek(0)
            raise UserError(
                f"expected no other process at the run '{path.stem}' of this folder, found process {file.read()}; "
                "wait until it is done, or end it, and run the same command again"
            ) from error
    except OSError:
        pass  # a file system that knows no locks: all goes as if there were none
    file.truncate(0)
    file.write(f"{os.getpid()} on {platform.node()}")
    file.flush()
    _held[path] = file


def forget(path: Path) -> None:
    """Remove the state of a run that is done, and let go of the run."""
    folder = path.parent.parent
    shutil.rmtree(folder, ignore_errors=True)
    if lock := _held.pop(folder.with_name(f"{folder.name}.lock").resolve(), None):
        lock.close()
