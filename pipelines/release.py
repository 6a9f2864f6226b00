"""Releases: git tags on the commits whose results DVC keeps."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipelines.git import git
from rsd.machine.errors import UserError

RELEASES = "release-"
"""Prefix of their tags."""


def has_upstream(folder: Path) -> bool:
    """Whether this branch follows a branch of a remote."""
    try:
        return bool(git(folder, "rev-parse", "--abbrev-ref", "@{upstream}"))
    except UserError:
        return False


def has_moved(folder: Path) -> bool:
    """Whether the upstream, as last fetched, has commits that HEAD lacks."""
    return bool(git(folder, "rev-list", "--max-count=1", "HEAD..@{upstream}"))


def follow_upstream(folder: Path) -> list[str]:
    """Fast-forward to the fetched upstream, and drop changed results that are in its way.

    Returns the results that were dropped. Raises `UserError` where both sides have commits of their own.
    """
    if not has_moved(folder):
        return []
    if git(folder, "rev-list", "--max-count=1", "@{upstream}..HEAD"):
        raise UserError(
            f"expected {folder} to be behind its upstream, found commits of its own as well; rebase and push them"
        )
    new = set(git(folder, "diff", "--name-only", "HEAD", "@{upstream}").splitlines())
    in_the_way = [name for name in changed(folder)[0] if name in new]
    known = git(folder, "ls-files", "--", *in_the_way).splitlines() if in_the_way else []
    if known:
        git(folder, "checkout", "--quiet", "HEAD", "--", *known)
    for name in set(in_the_way) - set(known):
        (folder / name).unlink()
    git(folder, "merge", "--ff-only", "--quiet", "@{upstream}")
    return in_the_way


def data_files(folder: Path) -> list[Path]:
    """The `.dvc` files that git tracks: data in DVC that no stage writes."""
    return [Path(name) for name in git(folder, "ls-files", "*.dvc").splitlines()]


def changed(folder: Path) -> tuple[list[str], list[str]]:
    """The files that differ from the last commit: DVC's records of results (new ones, too), and other tracked files."""
    status = ["status", "--porcelain", "--no-renames"]
    results = git(folder, *status, "--", "dvc.lock", "*.dvc").splitlines()
    tracked = git(folder, *status, "--untracked-files=no").splitlines()
    return [line[3:] for line in results], [line[3:] for line in tracked if line not in results]


def last_release(folder: Path) -> str | None:
    """The newest release tag among the ancestors of HEAD."""
    try:
        return git(folder, "describe", "--tags", "--abbrev=0", "--match", f"{RELEASES}*")
    except UserError:
        return None


def is_at(folder: Path, tag: str) -> bool:
    return git(folder, "rev-parse", "HEAD") == git(folder, "rev-parse", f"{tag}^{{commit}}")


def tag_release(folder: Path, files: Sequence[str], words: str) -> str:
    """Commit `files` and tag the commit as the release of today; returns the tag."""
    day = RELEASES + datetime.now(UTC).strftime("%Y-%m-%d")
    tags = set(git(folder, "tag", "--list", f"{day}*").splitlines())
    tag = next(name for number in range(1, 10_000) if (name := day if number == 1 else f"{day}.{number}") not in tags)
    if files:
        git(folder, "add", "--", *files)
        git(folder, "commit", "--quiet", "--only", "--message", _subject(tag), "--", *files)
    git(folder, "tag", "--annotate", "--message", words, tag)
    return tag


def unpublished(folder: Path) -> list[str]:
    """The release tag at HEAD, if the upstream lacks it and has moved, so that it can no longer be pushed."""
    own = git(folder, "rev-list", "@{upstream}..HEAD").splitlines()
    if len(own) != 1 or not has_moved(folder):
        return []
    tags = git(folder, "tag", "--list", f"{RELEASES}*", "--points-at", "HEAD").splitlines()
    return [tag for tag in tags if _subject(tag) == git(folder, "log", "-1", "--format=%s")]


def take_back(folder: Path, tag: str) -> None:
    """Undo `tag_release`; the results stay in the workspace."""
    git(folder, "tag", "--delete", tag)
    if git(folder, "log", "-1", "--format=%s") == _subject(tag):
        git(folder, "reset", "--quiet", "HEAD~1")


def _subject(tag: str) -> str:
    return f"Results of {tag}"
