"""Git's command line, and what a sweep keeps in git."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from rsd.machine.errors import UserError

LAST_LINES = 5
"""Of a failure's output: where a remote refuses, the reason comes before git's own sentence."""


def git(folder: Path, *arguments: str, input: str | None = None, **environment: str) -> str:
    """Return what `git ARGUMENTS` prints in `folder`; `UserError` with its last lines, without its hints, if it fails.

    Nobody can answer a question for a password here.
    """
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **environment},
        input=input or "",
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        last = [line.strip() for line in lines if line.strip() and not line.startswith("hint: ")][-LAST_LINES:]
        raise UserError(f"git {arguments[0]} in {folder} failed: {' '.join(last) or f'status {done.returncode}'}")
    return done.stdout.rstrip()


def snapshot(root: Path, ref: str, also: Iterable[str]) -> tuple[str, str]:
    """Commit the project as it lies in `root`, under `ref`, and touch neither its index nor its branch.

    The commit holds tracked files as they are now, and new files below the paths `also`. (`git stash create` leaves new
    files out.)

    Returns:
        The commit that is checked out, and that of the snapshot, its child.
    """
    try:
        if Path(git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            raise UserError(f"expected {root} to be the top of its git repository; sweep there")
        baseline = git(root, "rev-parse", "--verify", "HEAD")
    except UserError as error:
        raise UserError(f"expected a git repository with a commit in {root}: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        # With its time: git takes a file for unchanged whose size is the same and whose time is older than the index.
        shutil.copy2(root / git(root, "rev-parse", "--git-path", "index"), index)
        git(root, "add", "-u", GIT_INDEX_FILE=str(index))
        if new := [path for path in also if (root / path).exists()]:
            git(root, "add", "--", *new, GIT_INDEX_FILE=str(index))
        tree = git(root, "write-tree", GIT_INDEX_FILE=str(index))
    who = {f"GIT_{role}_{field}": "sweep" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
    # A date of its own would make another commit of the same files.
    who |= {f"GIT_{role}_DATE": "2000-01-01T00:00:00Z" for role in ("AUTHOR", "COMMITTER")}
    commit = git(root, "commit-tree", tree, "-p", baseline, "-m", f"What {ref} runs", **who)
    git(root, "update-ref", ref, commit)
    return baseline, commit


def objects(root: Path, commit: str, paths: Iterable[str]) -> dict[str, str]:
    """The ids of files and folders in a commit, by path. A path that the commit lacks is left out."""
    names = sorted(set(paths))
    lines = git(root, "cat-file", "--batch-check=%(objectname)", input="".join(f"{commit}:{p}\n" for p in names))
    return {path: line for path, line in zip(names, lines.splitlines(), strict=True) if not line.endswith("missing")}


def experiments(root: Path, remote: str | None = None) -> dict[str, str]:
    """The refs of all DVC experiments in a repository, or in its `remote`, by name; one, if two share a name."""
    if remote is None:
        refs = git(root, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    else:
        refs = [line.split("\t")[1] for line in git(root, "ls-remote", remote, "refs/exps/*").splitlines()]
    # refs/exps/BASELINE[:2]/BASELINE[2:]/NAME
    return {ref.rsplit("/", 1)[1]: ref for ref in refs if ref.count("/") == 4 and len(ref.split("/")[2]) == 2}


def contents(root: Path, files: Mapping[str, str]) -> dict[str, str]:
    """The text of each `REVISION:PATH`, by the same keys, read by one process. A missing file is left out."""
    names = "".join(f"{name}\n" for name in files.values())
    output = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=root, input=names.encode(), capture_output=True, check=True
    ).stdout
    texts, at = {}, 0
    for key in files:
        head, at = output[at : (end := output.index(b"\n", at))].split(), end + 1
        if head[-1] == b"missing":
            continue
        size = int(head[-1])
        texts[key] = output[at : at + size].decode()
        at += size + 1
    return texts
