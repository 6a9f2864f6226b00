"""One unit of a sweep, run in a git clone of its own and saved as a DVC experiment.

Why not `dvc exp run --temp` or `dvc queue`: their folders have random names and go with the process, so that a killed
training has no checkpoint to find; and they know one machine. A clone lies where the unit's name says, keeps `.state/`
until the unit has succeeded, and can be made wherever git and a DVC remote reach. Worktrees will not do: they share
`refs/exps/exec`, in which DVC notes what it is doing, with each other.
"""

import fcntl
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from configobj import ConfigObj  # DVC's own reader of its settings

from pipelines.dvc_command import DVC, reason
from pipelines.git import contents, git
from pipelines.gpus import create_limits, reserved, visible_gpus
from pipelines.network import can_be_mended
from pipelines.outcome import StageError
from pipelines.process_group import run_group
from pipelines.sweep.results import students
from pipelines.sweep.units import PARAMS, Unit
from rsd.machine.errors import UserError

RECORD = "sweep.json"
"""In the commit of the experiment: what the unit was and found."""
LINKED = ("datasets",)
"""What a project has beside git and DVC; a clone on the same machine gets a link to it."""
LOCKS = "locks"
LOCK_SECONDS = 0.5
TAIL_LINES = 200


class TransferError(StageError):
    """Git or DVC could not reach its remote: the one failure that another try can mend, see `can_be_mended`."""


class StoppedError(StageError):
    """The unit was told to stop."""


@dataclass(frozen=True)
class Project:
    """Where units come from and where their experiments go."""

    source: str
    """The project's folder, or the URL of a git repository that has `baseline` and `snapshot`."""
    baseline: str
    """The commit that experiments belong to."""
    snapshot: str
    """The ref of what runs."""
    workspaces: str
    """The folder in which the clones lie; relative: to where the worker was started."""
    cache: str | None
    """DVC's cache, shared by all; None: each `workspaces` has one, and results go through `remote`."""
    remote: str | None
    """Name of the DVC remote through which machines share; None: they share the cache."""


def run(
    unit: Unit, project: Project, needs: Mapping[str, str], stop: threading.Event, say: Callable[[str], None]
) -> str:
    """Bring the unit's targets up to date in its clone, save the experiment, send it home, and remove the clone.

    `needs` are the refs of the experiments of what it shares, by name. Returns the ref of its own.

    A unit that was killed finds its clone again, with the stages that are done and the checkpoint of the one that is
    not. Raises `StageError` with what DVC or the stage said; `TransferError`, where another try may help.
    """
    folder = Path(project.workspaces).resolve() / unit.name
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def heard(line: str) -> None:
        tail.append(line)
        say(line)

    def dvc(*arguments: str, transfer: bool = False, only: Mapping[str, str] | None = None) -> None:
        tail.clear()
        command = [*DVC, *arguments]
        code = run_group(command, folder, say=heard, stop=stop, hold=[lock], variables=only)
        if stop.is_set():
            raise StoppedError(f"{unit.label or unit.name} was stopped")
        if code:
            kind = TransferError if transfer and can_be_mended(tail) else StageError
            raise kind(f"{unit.label or unit.name}: {reason(tail)}")

    start = time.monotonic()
    ref = f"refs/exps/{project.baseline[:2]}/{project.baseline[2:]}/{unit.name}"  # where DVC puts it
    with _alone(folder, stop) as lock:
        with _transfers(unit):
            # A worker may have been lost, or another sweep have done it, before anyone heard of it.
            if git(folder.parent, "ls-remote", project.source, ref):
                return ref
            _prepare(folder, unit, project, needs)
        if project.remote and unit.shared:
            _restore_lock(folder, unit, needs)
            dvc("pull", "--quiet", "--remote", project.remote, *unit.shared, transfer=True)
        with _gpus_for(unit, stop, say) as only_mine:
            dvc("repro", *unit.targets, only=only_mine)
        record = {"label": unit.label, "values": unit.values, "cell": unit.cell, "students": students(folder)}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        if project.remote:
            dvc("push", "--quiet", "--remote", project.remote, *unit.targets, "--with-deps", transfer=True)
        # Of the targets only: DVC would otherwise look for the outputs of stages that a sweep does not run.
        dvc("exp", "save", "--quiet", "--force", "--name", unit.name, "--include-untracked", RECORD, *unit.targets)
        with _transfers(unit):
            git(folder, "push", "--quiet", "origin", f"+{ref}:{ref}")
        _remove(folder)
    say(f"{unit.label or unit.name}: experiment {unit.name} in {time.monotonic() - start:.0f} s")
    return ref


@contextmanager
def _transfers(unit: Unit) -> Iterator[None]:
    """What git says in this block becomes the unit's failure, by its kind."""
    try:
        yield
    except UserError as error:
        kind = TransferError if can_be_mended([str(error)]) else StageError
        raise kind(f"{unit.label or unit.name}: {error}") from error


def _prepare(folder: Path, unit: Unit, project: Project, needs: Mapping[str, str]) -> None:
    """The project as it is in the snapshot, with the unit's params; what git ignores stays as it was left."""
    local = Path(project.source).is_absolute()
    if not (folder / ".git" / "ready").is_file():
        if folder.exists():
            shutil.rmtree(folder)  # a clone that was cut off
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Objects of a folder on this machine are read where they are.
        how = ["--quiet", "--no-checkout", *(["--shared"] if local else [])]
        git(folder.parent, "clone", *how, project.source, folder.name)
        (folder / ".git" / "info" / "exclude").write_text("".join(f"/{name}\n" for name in LINKED))
        (folder / ".git" / "ready").touch()
    shared = [f"+{ref}:refs/shared/{name}" for name, ref in needs.items()]
    git(folder, "fetch", "--quiet", "origin", f"+{project.snapshot}:{project.snapshot}", *shared)
    git(folder, "checkout", "--quiet", "--force", "--detach", project.baseline)
    # The experiment's commit is a child of the one that the user has checked out, as `dvc exp show` expects.
    git(folder, "read-tree", "--reset", "-u", project.snapshot)
    (folder / PARAMS).write_text(unit.params)
    config = folder / ".dvc" / "config.local"
    config.unlink(missing_ok=True)
    if local:
        source = Path(project.source)
        if (source / ".dvc" / "config.local").is_file():  # such as a remote's credentials
            shutil.copy(source / ".dvc" / "config.local", config)
        for name in LINKED:
            if (source / name).is_dir() and not (folder / name).exists():
                (folder / name).symlink_to(source / name)
    settings = ConfigObj(str(config), list_values=False)
    settings.merge(
        {
            "cache": {"dir": project.cache or str(folder.parents[1] / "cache")},
            "core": {"site_cache_dir": str(folder / ".dvc" / "tmp" / "site"), "autostage": "false"},
            "exp": {"auto_push": "false"},
        }
    )
    settings.write()


def _restore_lock(folder: Path, unit: Unit, needs: Iterable[str]) -> None:
    """Put what is locked of the shared stages into dvc.lock, so that DVC can pull their outputs.

    DVC's run cache would find them as well, at the price of looking through all entries of all cells in each cell.
    """
    locks = contents(folder, {name: f"refs/shared/{name}:dvc.lock" for name in needs})
    file = folder / "dvc.lock"
    lock: Any = yaml.safe_load(file.read_text()) if file.is_file() else {"schema": "2.0", "stages": {}}
    for text in locks.values():
        found = yaml.safe_load(text)["stages"]
        lock["stages"] |= {address: found[address] for address in unit.shared if address in found}
    file.write_text(yaml.safe_dump(lock, sort_keys=False))


def _gpus_for(unit: Unit, stop: threading.Event, say: Callable[[str], None]) -> AbstractContextManager[dict[str, str]]:
    """As many GPUs of this machine as the cell trains with, for itself; nothing is held where there is none."""
    params = yaml.safe_load(unit.params)
    compute = (params.get("compute") if isinstance(params, dict) else None) or {}
    if compute.get("device") == "cpu" or not (gpus := visible_gpus()):
        return nullcontext({})
    create_limits(gpus)
    return reserved(int(compute.get("processes") or 1), gpus, stop, say)


def forget_others(workspaces: Path, kept: Collection[str]) -> None:
    """Remove the clones of units that are not among `kept` and that nobody works in, then the folder if it is empty."""
    stopped = threading.Event()
    stopped.set()  # whose lock somebody holds is left alone
    for folder in [*workspaces.iterdir()] if workspaces.is_dir() else []:
        if folder.is_dir() and folder.name not in {LOCKS, *kept}:
            with suppress(StoppedError), _alone(folder, stopped):
                _remove(folder)
    with suppress(OSError):  # whatever is not empty stays: another sweep of this name may take a lock at this moment
        (workspaces / LOCKS).rmdir()
        (workspaces / ".gitignore").unlink(missing_ok=True)
        workspaces.rmdir()


def _remove(folder: Path) -> None:
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)  # what is half removed is nobody's clone
    shutil.rmtree(gone)


@contextmanager
def _alone(folder: Path, stop: threading.Event) -> Iterator[int]:
    """Nobody else works in `folder` meanwhile: a sweep may be started again while a lost worker's cell still runs.

    Yields the descriptor of the lock, for what shall hold it as long as it lives. Raises `StoppedError`.
    """
    path = folder.parent / LOCKS / folder.name
    while True:
        with suppress(FileNotFoundError):  # `forget_others` of another sweep may remove the folder in between
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder.parent / ".gitignore").write_text("*\n")
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == path.stat().st_ino:  # and no file that its last holder has removed
                    break
            os.close(descriptor)
        if stop.is_set():
            raise StoppedError(f"{folder.name} was stopped")
        time.sleep(LOCK_SECONDS)
    try:
        yield descriptor
        path.unlink()
    finally:
        os.close(descriptor)
