"""What survives a crash: the state of an unfinished training, named by everything that shaped it."""

import fcntl
import hashlib
import json
import os
import pickle
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch

from rsd import parallel
from rsd.errors import UserError
from rsd.files import sha256, written_aside

STATE = Path(".state")
_held: dict[Path, TextIO] = {}
"""The locks of the runs that are this process's own."""


def code_digests() -> dict[str, str]:
    """SHA-256 of every file of this project that is loaded, by path: the started stage and own methods included."""
    project = Path(__file__).parents[1]
    # A user's own methods lie where the stage was started (rsd.distillers.OWN).
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
        **{name: version(name) for name in ("torch", "torchvision", "timm", "numpy", "scipy", "pillow")},
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


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all.

    Raises:
        UserError: there is no room for it, or the folder cannot be written; what was there before stays.
    """
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:
        # torch.save turns a write that breaks off into an internal error of its own.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        found = error.strerror if isinstance(error, OSError) else "the write broke off, as on a full disk"
        raise UserError(
            f"expected to write the checkpoint {path}, found: {found}; free space and run the same command again: "
            + ("training goes on from the last checkpoint, which is whole" if path.is_file() else "it starts afresh")
        ) from error


def load(path: Path) -> dict[str, Any] | None:
    """The state at `path`, or None if there is none.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        found = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"expected a whole checkpoint in {path}, found one that cannot be read ({found}); remove it and run the "
            "same command again, which then starts afresh"
        ) from error


def forget(path: Path) -> None:
    """Remove the state of a run that is done, and let go of the run."""
    folder = path.parent.parent
    shutil.rmtree(folder, ignore_errors=True)
    if lock := _held.pop(folder.with_name(f"{folder.name}.lock").resolve(), None):
        lock.close()
