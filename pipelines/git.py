"""Git's command line, and what a sweep keeps in it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from rsd.machine.errors import UserError

WORDS = 5
"""Lines of a failure that are told: where a remote refuses, the reason comes before git's own sentence."""


def git(folder: Path, *arguments: str, input: str | None = None, **environment: str) -> str:
    """What `git ARGUMENTS` prints in `folder`; `UserError` with its last words, without its hints, if it fails."""
    # No question for a password can be answered here; a hook of the user's has nothing to do with a sweep.
    quiet = {"GIT_TERMINAL_PROMPT": "0", **environment}
    done = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", *arguments],
        cwd=folder,
        env={**os.environ, **quiet},
        input=input,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        said = " ".join([line.strip() for line in lines if line.strip() and not line.startswith("hint: ")][-WORDS:])
        raise UserError(f"git {arguments[0]} in {folder} failed: {said or f'status {done.returncode}'}")
    return done.stdout.strip()


def snapshot(root: Path, ref: str, also: Iterable[str]) -> tuple[str, str]:
    """Commit the project as it lies there, under `ref`, and touch neither its index nor its branch.

    Files that are tracked go in as they are now, and new files below the paths `also`.

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
    """The ids of files and folders in a commit, by path; those that are not in it are left out."""
    wanted = sorted(set(paths))
    lines = git(root, "cat-file", "--batch-check=%(objectname)", input="".join(f"{commit}:{p}\n" for p in wanted))
    return {path: line for path, line in zip(wanted, lines.splitlines(), strict=True) if not line.endswith("missing")}


def experiments(root: Path, remote: str | None = None) -> dict[str, str]:
    """The refs of all experiments of DVC in a repository, or in its `remote`, by name; of two of one name, either."""
    if remote is None:
        refs = git(root, "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    else:
        refs = [line.split("\t")[1] for line in git(root, "ls-remote", remote, "refs/exps/*").splitlines()]
    # refs/exps/BASELINE[:2]/BASELINE[2:]/NAME
    return {ref.rsplit("/", 1)[1]: ref for ref in refs if ref.count("/") == 4 and len(ref.split("/")[2]) == 2}


def contents(root: Path, files: Mapping[str, str]) -> dict[str, str]:
    """The text of `REVISION:PATH` by the same keys, all by one process; those that are not there are left out."""
    asked = "".join(f"{name}\n" for name in files.values())
    done = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=root, input=asked.encode(), capture_output=True, check=True
    ).stdout
    found, at = {}, 0
    for key in files:
        head, at = done[at : (end := done.index(b"\n", at))].split(), end + 1
        if head[-1] == b"missing":
            continue
        size = int(head[-1])
        found[key] = done[at : at + size].decode()
        at += size + 1
    return found
