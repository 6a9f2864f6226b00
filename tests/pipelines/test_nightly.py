"""A release is what the newest data give, if nothing is worse than it was; nothing else leaves the machine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prefect import get_client
from prefect.blocks.system import Secret
from prefect.client.schemas.sorting import LogSort

from pipelines import network
from pipelines import nightly as module
from pipelines import release as releases
from pipelines.network import NetworkError
from pipelines.nightly import MOVED, SECRET, Gate, compare, masked, miss, nightly
from pipelines.process_group import Ended
from pipelines.release import tag_release
from rsd.machine.errors import UserError
from tests.pipelines.conftest import ToyRepo, wait_until

GATE = Gate(metric="value", margin=0.5)
QUIET = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


class Released:
    """The toy project in git, with data in DVC's keeping, a DVC remote and a git remote."""

    def __init__(self, repo: ToyRepo, beside: Path) -> None:
        self.repo, self.remote, self.origin = repo, beside / "remote", beside / "origin"
        (repo.path / ".gitignore").write_text("/seen/\n/.state/\n/merge.json\n")
        self.set_data(1)
        repo.dvc("add", "data.json")
        repo.dvc("remote", "add", "--default", "storage", str(self.remote))
        subprocess.run(["git", "init", "-q", "--bare", str(self.origin)], check=True)
        self.git("remote", "add", "origin", str(self.origin))
        self.commit()
        self.git("push", "-q", "--set-upstream", "origin", "HEAD")
        repo.dvc("push")

    def set_data(self, value: float) -> None:
        (self.repo.path / "data.json").write_text(json.dumps({"value": value}))

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "-q", "-m", "a change")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.repo.path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def tags(self) -> list[str]:
        """The releases that the git remote has."""
        done = subprocess.run(["git", "tag"], cwd=self.origin, capture_output=True, text=True, check=True)
        return done.stdout.split()

    def colleague(self, beside: Path) -> Path:
        """A new clone of what is published."""
        other = beside / f"other-{len(list(beside.glob('other-*')))}"
        subprocess.run(["git", "clone", "-q", str(self.origin), str(other)], check=True)
        return other

    def new_results_elsewhere(self, beside: Path) -> None:
        """Someone else pushes a commit that changes dvc.lock as well."""
        other = self.colleague(beside)
        with (other / "dvc.lock").open("a") as lock:
            lock.write("# by a colleague\n")
        subprocess.run(["git", "commit", "-qam", "a colleague's"], cwd=other, check=True)
        subprocess.run(["git", "push", "-q"], cwd=other, check=True)

    def new_data_elsewhere(self, value: float, beside: Path) -> None:
        """Someone else adds new data and pushes them."""
        other = self.colleague(beside)
        (other / "data.json").write_text(json.dumps({"value": value}))
        for command in (
            [sys.executable, "-m", "dvc", "add", "-q", "data.json"],
            [sys.executable, "-m", "dvc", "push", "-q"],
            ["git", "commit", "-qam", "new data"],
            ["git", "push", "-q"],
        ):
            subprocess.run(command, cwd=other, check=True, capture_output=True)


@pytest.fixture
def released(
    tmp_path: Path,
    make_dvc_repo: Callable[[Path], ToyRepo],
    prefect_server: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Released:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    repo = make_dvc_repo(tmp_path / "project")
    graph = "stages:\n  merge:\n    cmd: python work.py merge.json data.json\n    deps: [work.py, data.json]\n"
    (repo.path / "dvc.yaml").write_text(graph + "    metrics: [merge.json]\n")
    return Released(repo, tmp_path)


def run(released: Released) -> str:
    return str(nightly(root=str(released.repo.path), gates=[GATE]))


@pytest.mark.slow
def test_new_data_become_a_release_in_both_remotes(released: Released, tmp_path: Path) -> None:
    first = run(released)
    assert first.startswith("release-")
    assert released.tags() == [first]
    assert run(released) == f"nothing is new since {first}"

    released.new_data_elsewhere(5, tmp_path)
    second = run(released)

    assert released.tags() == [first, second]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--branch", second, str(released.origin), str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=clone, check=True, capture_output=True)
    assert json.loads((clone / "merge.json").read_text()) == {"value": 6}


@pytest.mark.slow
def test_worse_metrics_stop_before_anything_is_pushed(released: Released, tmp_path: Path) -> None:
    first = run(released)
    released.new_data_elsewhere(0.25, tmp_path)
    kept = sorted(path.name for path in released.remote.rglob("*") if path.is_file())

    with pytest.raises(UserError, match=f"no more than 0.5 worse than the 2 of {first}, found 1.25, 0.75 worse"):
        run(released)

    assert released.tags() == [first]
    assert sorted(path.name for path in released.remote.rglob("*") if path.is_file()) == kept


@pytest.mark.slow
def test_a_workspace_with_changes_is_refused(released: Released) -> None:
    (released.repo.path / "work.py").write_text("raise SystemExit('error: edited')")

    with pytest.raises(UserError, match="expected a workspace without changes, .* found work.py changed"):
        run(released)


@pytest.mark.slow
def test_an_absent_remote_is_tried_again(released: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    away = released.remote.with_name("away")
    shutil.move(released.remote, away)
    shutil.rmtree(released.repo.path / ".dvc" / "cache")
    (released.repo.path / "data.json").unlink()
    released.remote.write_text("a file where a folder is expected")
    tries = 0
    real = module.run_group

    def run_group(command: list[str], *arguments: Any, **options: Any) -> Ended:
        nonlocal tries
        if command[-3:-1] == ["pull", "--force"]:
            tries += 1
            if tries == 2:
                released.remote.unlink()
                shutil.move(away, released.remote)
        ended: Ended = real(command, *arguments, **options)
        return ended

    monkeypatch.setattr(module, "run_group", run_group)
    monkeypatch.setattr(module.pull, "retry_delay_seconds", [0.1] * 4)
    monkeypatch.setattr(network, "LASTING", ())

    assert run(released).startswith("release-")
    assert tries == 2


@pytest.mark.slow
@pytest.mark.parametrize(("where", "step"), [(module, "reproduce"), (releases, "tag_release")])
def test_a_colleagues_push_costs_one_night(
    released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: ModuleType, step: str
) -> None:
    first = run(released)
    released.new_data_elsewhere(5, tmp_path)
    real = getattr(where, step)

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        released.new_results_elsewhere(tmp_path)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(where, step, meanwhile)
        with pytest.raises(UserError) as stopped:
            run(released)

    assert str(stopped.value) == MOVED
    assert released.tags() == released.git("tag").split() == [first]
    assert not released.git("rev-list", "@{upstream}..HEAD")
    second = run(released)
    assert released.tags() == [first, second]
    assert "a colleague's" in released.git("log", "--format=%s", "@{upstream}")


@pytest.mark.slow
def test_a_killed_runs_tag_is_no_obstacle(released: Released, tmp_path: Path) -> None:
    first = run(released)
    with (released.repo.path / "dvc.lock").open("a") as lock:
        lock.write("# results\n")
    tag_release(released.repo.path, ["dvc.lock"], "by a run that was killed now")
    released.new_results_elsewhere(tmp_path)

    second = run(released)

    assert released.tags() == [first, second]
    assert not released.git("rev-list", "@{upstream}..HEAD")


@pytest.mark.slow
def test_a_gate_without_loadable_metrics_is_closed(released: Released) -> None:
    released.repo.dvc("repro")
    tag = tag_release(released.repo.path, ["dvc.lock"], "a release")
    released.set_data(0)
    released.repo.dvc("repro")
    shutil.rmtree(released.repo.path / ".dvc" / "cache")
    shutil.rmtree(released.remote)

    with pytest.raises(NetworkError, match=f"cannot compare with {tag}: DVC failed to load some metrics"):
        compare.with_options(retry_delay_seconds=0.01)(released.repo.path, tag, [GATE], 0, {})


def test_comparison_has_credentials_and_is_tried_again(
    prefect_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    def run_group(*_: object, say: object, hold: list[int], variables: dict[str, str]) -> Ended:
        given.append((hold, variables["TOKEN"]))
        warning = ["DVC failed to load some metrics for following revisions: 'release-1'."] * (len(given) < 3)
        return Ended(0, [*warning, '{"m.json": {"value": {"old": 1, "new": 2}}}'])

    monkeypatch.setattr(module, "run_group", run_group)
    quick = compare.with_options(retry_delay_seconds=0)

    quick(tmp_path, "release-1", [GATE], 7, {"TOKEN": "s3cr3t"})

    assert given == [([7], "s3cr3t")] * 3


def test_short_values_are_not_masked() -> None:
    assert masked("only s3cr3t", {"A": "s3cr3t", "B": "on", "C": ""}) == "only ***"


def test_the_nightly_log_has_no_tips(tmp_path: Path) -> None:
    update = ["printf", "To track the changes with git, run:\n\n\tgit add raw.dvc\n1 file updated\n"]  # of `dvc update`
    lines: list[str] = []

    with (tmp_path / "lock").open("w") as lock:
        module._run_masked(update, tmp_path, lock.fileno(), {}, lines.append)
    assert lines == ["1 file updated"]


@pytest.mark.slow
def test_a_secret_reaches_only_the_command(released: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    Secret(value={"TOKEN": "s3cr3t-value"}).save(SECRET, overwrite=True, _sync=True)  # type: ignore[call-arg]
    hook = released.repo.path / ".git" / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\necho "token is $TOKEN" | tee seen-by-git >&2\n')
    hook.chmod(0o755)
    try:
        run(released)
    finally:
        with get_client(sync_client=True) as client:
            client.delete_block_document(Secret.load(SECRET, _sync=True)._block_document_id)  # type: ignore

    assert (released.repo.path / "seen-by-git").read_text() == "token is s3cr3t-value\n"
    with get_client(sync_client=True) as client:

        def shown() -> str:
            logs = client.read_logs(sort=LogSort.TIMESTAMP_DESC)
            return str(logs) + str(client.read_flow_runs()) + str(client.read_artifacts())

        wait_until(lambda: "token is ***" in shown(), 30)  # logs are sent every two seconds
        everything = shown()
    assert "s3cr3t-value" not in everything


@pytest.mark.parametrize(
    ("gate", "old", "new", "missed"),
    [
        (Gate(metric="m", margin=1), 90, 89, False),
        (Gate(metric="m", margin=1), 90, 88.9, True),
        (Gate(metric="m", margin=0.1, better="lower"), 2, 2.2, True),
        (Gate(metric="m", margin=0.1, better="lower"), 2, 1, False),
        (Gate(metric="m", margin=0), None, 1, False),
        (Gate(metric="m", margin=0), 1, None, True),
    ],
)
def test_a_gate_is_missed_only_beyond_its_margin(
    gate: Gate, old: float | None, new: float | None, missed: bool
) -> None:
    assert (miss(gate, {"m": {"old": old, "new": new}}, "release-1") is not None) == missed
