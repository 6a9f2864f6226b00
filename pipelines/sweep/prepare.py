"""Check a sweep before anything runs, and find out what is left to run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.dvc_graph import cache_and_remotes
from pipelines.git import experiments, git, snapshot
from pipelines.sweep.clone import Project
from pipelines.sweep.grid import Grid, points
from pipelines.sweep.units import PARAMS, Unit, units_of
from rsd.machine.errors import UserError
from rsd.machine.extras import needs

WORKSPACES = Path(".state/sweeps")
NEW_FILES = ("conf", "methods")
"""Folders whose new files belong to a sweep before git tracks them."""


@dataclass(frozen=True)
class Prepared:
    """A sweep that may run."""

    name: str
    root: Path
    project: Project
    units: list[Unit]
    """Each after the units that it needs; finished ones included."""
    done: dict[str, str]
    """The refs of the experiments of finished units, by the unit's name."""
    git_remote: str | None

    @property
    def cells(self) -> list[Unit]:
        return [unit for unit in self.units if unit.cell]


def prepare(
    name: str,
    grids: Sequence[Grid],
    root: Path,
    *,
    git_remote: str | None = None,
    dvc_remote: str | None = None,
    dask: str | None = None,
) -> Prepared:
    """Take a snapshot of the project and plan the cells of `grids` on it. Raises `UserError` for whatever is wrong."""
    root = root.resolve()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
        raise UserError(f"expected a sweep's name of letters, digits, dots and dashes, found {name!r}")
    if (git_remote is None) != (dvc_remote is None):
        raise UserError("expected a git remote and a DVC remote, or neither: code goes by one and results by the other")
    url = None if git_remote is None else remote_url(root, git_remote)
    if dask is not None:
        needs("dask", "prefect_dask")
    ref = f"refs/sweeps/{name}"
    baseline, commit = snapshot(root, ref, NEW_FILES)
    units, done = units_of(root, name, points(grids, root / PARAMS), commit, experiments(root, git_remote))
    workspaces = WORKSPACES / name
    cache, remotes = cache_and_remotes(root)
    if url is None:
        project = Project(name, str(root), baseline, commit, str(root / workspaces), cache, None)
        return Prepared(name, root, project, units, done, None)
    if dvc_remote not in remotes:
        raise UserError(f"expected a DVC remote out of {', '.join(remotes) or 'none'}, found {dvc_remote!r}")
    git(root, "push", "--no-verify", "--quiet", str(git_remote), f"+{ref}:{ref}")
    project = Project(name, url, baseline, commit, str(workspaces), None, dvc_remote)
    return Prepared(name, root, project, units, done, git_remote)


def remote_url(root: Path, git_remote: str) -> str:
    """The URL of a git remote that is given by its name or its URL.

    Raises `UserError` for a password in it: whoever sees the Prefect server would read it among the flow's params.
    """
    known = git_remote in git(root, "remote").split()
    url = git(root, "remote", "get-url", git_remote) if known else git_remote
    if urlsplit(url).password is not None:
        where = git_remote if known else "a URL"
        raise UserError(
            f"git_remote: expected a remote without a password, found one in {where}; leave it to git's credential "
            "helper, or use SSH"
        )
    return url
