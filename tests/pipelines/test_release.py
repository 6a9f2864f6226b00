"""What a release leaves in git when somebody else has pushed meanwhile."""

from pathlib import Path

import pytest

from pipelines.git import git
from pipelines.release import changed, follow_upstream, has_moved, tag_release, take_back, unpublished
from rsd.machine.errors import UserError

WHO = {f"GIT_{role}_{field}": "t" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with an upstream; `theirs` beside it is a colleague's."""
    for name, value in WHO.items():
        monkeypatch.setenv(name, value)
    git(tmp_path, "init", "-q", "--bare", "hub")
    git(tmp_path, "clone", "-q", "hub", "theirs")
    push(tmp_path / "theirs", "dvc.lock", "first")
    git(tmp_path, "clone", "-q", "hub", "ours")
    return tmp_path / "ours"


def push(theirs: Path, name: str, text: str) -> None:
    (theirs / name).write_text(text)
    git(theirs, "add", "-A")
    git(theirs, "commit", "-qm", f"theirs: {text}")
    git(theirs, "push", "-q", "origin", "HEAD")


def test_only_results_in_the_upstreams_way_are_dropped(ours: Path) -> None:
    theirs = ours.with_name("theirs")
    for name in ("dvc.lock", "new.dvc", "kept.dvc"):
        (ours / name).write_text("results of a night that was stopped")
    push(theirs, "dvc.lock", "second")
    push(theirs, "new.dvc", "theirs")
    git(ours, "fetch", "-q")

    assert follow_upstream(ours) == ["dvc.lock", "new.dvc"]

    assert [(ours / name).read_text() for name in ("dvc.lock", "new.dvc")] == ["second", "theirs"]
    assert changed(ours) == (["kept.dvc"], [])
    assert follow_upstream(ours) == []


@pytest.mark.parametrize("results", [["dvc.lock"], []])
def test_taking_a_release_back_leaves_only_its_results(ours: Path, results: list[str]) -> None:
    before = git(ours, "rev-parse", "HEAD")
    if results:
        (ours / "dvc.lock").write_text("results")
    tag = tag_release(ours, results, "words")

    take_back(ours, tag)

    assert (git(ours, "rev-parse", "HEAD"), git(ours, "tag")) == (before, "")
    assert changed(ours) == (results, [])


def test_an_unpushed_tag_behind_the_upstream_is_unpublished(ours: Path) -> None:
    (ours / "dvc.lock").write_text("results")
    tag = tag_release(ours, ["dvc.lock"], "words")
    assert (has_moved(ours), unpublished(ours)) == (False, [])  # it can still be pushed

    push(ours.with_name("theirs"), "dvc.lock", "second")
    git(ours, "fetch", "-q")

    assert (has_moved(ours), unpublished(ours)) == (True, [tag])
    take_back(ours, tag)
    assert follow_upstream(ours) == ["dvc.lock"]
    assert (ours / "dvc.lock").read_text() == "second"


def test_own_commits_beside_the_upstream_are_refused(ours: Path) -> None:
    (ours / "a").write_text("mine")
    git(ours, "add", "-A")
    git(ours, "commit", "-qm", "mine")
    git(ours, "tag", "release-by-hand")
    push(ours.with_name("theirs"), "dvc.lock", "second")
    git(ours, "fetch", "-q")

    assert unpublished(ours) == []
    with pytest.raises(UserError, match="behind its upstream, found commits of its own as well; rebase and push them"):
        follow_upstream(ours)
