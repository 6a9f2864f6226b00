"""What a sweep keeps in git, without touching what the user has there."""

from pathlib import Path

import pytest

from pipelines.git import contents, experiments, git, objects, snapshot
from rsd.machine.errors import UserError


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("old")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "x").write_text("x")
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "first")
    return tmp_path.resolve()


def test_a_snapshot_has_new_files_and_changes_nothing(repo: Path) -> None:
    (repo / "a").write_text("new")
    (repo / "conf" / "y").write_text("y")
    (repo / "huge").write_text("of the user's own")
    before = git(repo, "status", "--porcelain"), git(repo, "log", "--oneline")

    baseline, commit = snapshot(repo, "refs/sweeps/s", ["conf", "absent"])

    assert (git(repo, "status", "--porcelain"), git(repo, "log", "--oneline")) == before
    assert baseline == git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", f"{commit}^")
    assert git(repo, "ls-tree", "-r", "--name-only", "refs/sweeps/s").split() == ["a", "conf/x", "conf/y"]
    assert git(repo, "show", f"{commit}:a") == "new"
    assert snapshot(repo, "refs/sweeps/s", ["conf"])[1] == commit


def test_missing_files_of_revisions_are_left_out(repo: Path) -> None:
    requests = {"one": "HEAD:a", "none": "HEAD:nothing", "nested": "HEAD:conf/x"}

    assert contents(repo, requests) == {"one": "old", "nested": "x"}
    assert contents(repo, {}) == {}
    assert objects(repo, "HEAD", ["a", "conf", "nothing"]).keys() == {"a", "conf"}


def test_experiments_are_told_from_dvcs_other_refs(repo: Path) -> None:
    head = git(repo, "rev-parse", "HEAD")
    named = f"refs/exps/{head[:2]}/{head[2:]}/mine-0.1"
    for ref in (named, "refs/exps/exec/EXEC_HEAD", "refs/exps/stash"):
        git(repo, "update-ref", ref, head)

    assert experiments(repo) == experiments(repo, remote=str(repo)) == {"mine-0.1": named}


def test_a_folder_without_a_commit_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")

    with pytest.raises(UserError, match="expected a git repository with a commit"):
        snapshot(tmp_path.resolve(), "refs/sweeps/s", [])


def test_a_failure_ends_with_gits_last_lines(repo: Path) -> None:
    with pytest.raises(UserError, match=r"git fetch in .* failed: .*"):
        git(repo, "fetch", "nowhere")
