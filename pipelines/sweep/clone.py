"""One unit of a sweep: run in a git clone of its own and saved as a DVC experiment.

Why not `dvc exp run --temp` or `dvc queue`: their folders have random names and are removed when the process ends, so
that a killed training has no checkpoint to go on from; each cell would train its own teacher; and they know one
machine. The folder of a clone is named after the unit, keeps `.state/` until the unit has succeeded, and can lie
wherever git and a DVC remote reach. Git worktrees will not do: they share `refs/exps/exec`, in which DVC notes what it
is doing, with each other.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configobj import ConfigObj  # DVC's own reader of its settings
from dvc.utils.serialize import dump_yaml, parse_yaml

from pipelines import chosen
from pipelines.dvc_command import reason, run_dvc
from pipelines.dvc_lock import mend
from pipelines.git import contents, git
from pipelines.gpus import gpus_for
from pipelines.network import failure
from pipelines.outcome import StageError
from pipelines.sweep.results import students
from pipelines.sweep.units import PARAMS, Unit
from pipelines.workspace import locked
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml

RECORD = "sweep.json"
"""A file in the experiment's commit: what the unit set, and the students that it trained."""
READY = ".git/ready"
"""A file in a clone that is whole."""
LINKED = ("datasets",)
"""Folders that neither git nor DVC keeps. A clone on the same machine gets links to them."""


class StoppedError(StageError):
    """The unit was told to stop."""


@dataclass(frozen=True)
class Project:
    """Where units come from and where their experiments go."""

    sweep: str
    """The name of the sweep."""
    source: str
    """Where clones come from: the project's folder, or the URL of a git repository."""
    baseline: str
    """The commit that experiments belong to."""
    snapshot: str
    """The commit that runs. The sweep's ref holds it until another sweep of that name starts on changed files."""
    workspaces: str
    """The folder of the clones. A relative one belongs to the folder in which the worker was started."""
    cache: str | None
    """DVC's cache, shared by all clones; None: each machine has one beside its clones, and `remote` is shared."""
    remote: str | None
    """Name of the DVC remote through which machines share; None: they share the cache."""


def run(
    unit: Unit, project: Project, needs: Mapping[str, str], stop: threading.Event, say: Callable[[str], None]
) -> str:
    """Bring the unit's targets up to date in its clone, save and send the experiment, and remove the clone.

    `needs` are the refs, by name, of the experiments whose stages the unit shares. Returns the ref of its own
    experiment. A unit that was killed finds its clone again, with the finished stages and the checkpoint of the
    unfinished one.

    Raises:
        StageError: DVC or a stage failed.
        NetworkError: a remote could not be reached; another try may help.
    """
    folder = Path(project.workspaces).resolve() / unit.name
    label = unit.display_name

    def dvc(*arguments: str, transfer: bool = False, variables: Mapping[str, str] | None = None) -> None:
        status, lines = run_dvc(arguments, folder, say=say, stop=stop, hold=[lock], variables=variables)
        if stop.is_set():
            raise StoppedError(f"{label} was stopped")
        if status:
            sentence = f"{label}: {reason(lines)}"
            raise failure(sentence, lines) if transfer else StageError(sentence)

    start = time.monotonic()
    ref = f"refs/exps/{project.baseline[:2]}/{project.baseline[2:]}/{unit.name}"  # where DVC puts it
    with _alone(folder, stop) as lock:
        (folder.parents[1] / ".gitignore").write_text("*\n")
        with _network_failures(label):
            # Another sweep may have run the unit, or a worker may have been lost after it had sent the experiment.
            if git(folder.parents[1], "ls-remote", project.source, ref):
                return ref
            _prepare(folder, unit, project, needs)
        mend(folder, say)
        if project.remote and unit.shared:
            _restore_lock(folder, unit, needs)
            dvc("pull", "--quiet", "--remote", project.remote, *unit.shared, transfer=True)
        with gpus_for(chosen.compute(folder), stop, say) as variables:
            dvc("repro", *unit.targets, variables=variables)
        record = {"label": unit.label, "values": unit.values, "cell": unit.cell, "students": students(folder)}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        if project.remote:
            dvc("push", "--quiet", "--remote", project.remote, *unit.targets, "--with-deps", transfer=True)
        # Of the targets only: DVC would otherwise look for the outputs of stages that a sweep does not run.
        dvc("exp", "save", "--quiet", "--force", "--name", unit.name, "--include-untracked", RECORD, *unit.targets)
        with _network_failures(label):
            git(folder, "push", "--quiet", "origin", f"+{ref}:{ref}")
        _remove(folder)
    say(f"{label}: experiment {unit.name} in {time.monotonic() - start:.0f} s")
    return ref


@contextmanager
def _network_failures(label: str) -> Iterator[None]:
    """A failure of git in this block becomes the unit's, a `NetworkError` where another try may help."""
    try:
        yield
    except UserError as error:
        raise failure(f"{label}: {error}", [str(error)]) from error


def _prepare(folder: Path, unit: Unit, project: Project, needs: Mapping[str, str]) -> None:
    """Make `folder` the project of the snapshot, with the unit's params. Files that git ignores stay."""
    local = Path(project.source).is_absolute()
    if not (folder / READY).is_file():
        if folder.exists():
            shutil.rmtree(folder)  # a clone that was cut off, or half removed
        # The user's hooks have nothing to do with a sweep. Git objects on this machine are read where they are.
        how = ["--quiet", "--no-checkout", "-c", "core.hooksPath=/dev/null", *(["--shared"] if local else [])]
        git(folder.parents[1], "clone", *how, project.source, str(folder))
        (folder / ".git" / "info" / "exclude").write_text("".join(f"/{name}\n" for name in LINKED))
        (folder / READY).touch()
    shared = [f"+{ref}:refs/shared/{name}" for name, ref in needs.items()]
    git(folder, "fetch", "--quiet", "origin", project.snapshot, *shared)
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
    """Put the shared stages' entries into dvc.lock, so that DVC can pull their outputs.

    `dvc repro --pull` would find them in the run cache, after it has fetched the entries of all cells in each cell.
    """
    locks = contents(folder, {name: f"refs/shared/{name}:dvc.lock" for name in needs})
    file = folder / "dvc.lock"
    lock: Any = read_yaml(file) if file.is_file() else {"schema": "2.0", "stages": {}}
    for text in locks.values():
        entries = parse_yaml(text, file)["stages"]
        lock["stages"] |= {address: entries[address] for address in unit.shared if address in entries}
    dump_yaml(file, lock)


def forget_others(workspaces: Path, kept: Collection[str]) -> None:
    """Remove the clones of units that are not among `kept` and that nobody works in; the folder, too, once empty."""
    stopped = threading.Event()
    stopped.set()  # do not wait for a clone that somebody works in
    folders: list[Path] = []
    with suppress(FileNotFoundError):  # the last sweep, or one beside this, removed it
        folders = [*workspaces.iterdir()]
    for folder in folders:
        with suppress(StoppedError), _alone(folder, stopped):
            if folder.name not in kept:
                _remove(folder)
    with suppress(OSError):  # there is none, or it is not empty
        workspaces.rmdir()


def _remove(clone: Path) -> None:
    (clone / READY).unlink(missing_ok=True)  # first: a clone that is half removed must not be found again
    if clone.exists():
        shutil.rmtree(clone)


def _alone(folder: Path, stop: threading.Event) -> AbstractContextManager[int]:
    """Nobody else works in the clone `folder`: a lost worker's cell may still run when its sweep is started again.

    Gives the descriptor of the lock. Raises `StoppedError`.
    """

    def wait(_descriptor: int) -> None:
        if stop.is_set():
            raise StoppedError(f"{folder.name} was stopped")

    return locked(folder.parents[1] / ".locks" / folder.name, wait=wait)
