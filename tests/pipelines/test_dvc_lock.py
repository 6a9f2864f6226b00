"""A lock that DVC left behind stops nothing for ever."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile  # type: ignore[import-untyped]

from pipelines.dvc_command import DVC
from pipelines.dvc_lock import FILE, check, mend
from pipelines.workspace import one_writer
from rsd.machine.errors import UserError
from tests.pipelines.conftest import PROJECT, ToyRepo

DAMAGED = {"empty": "", "half a line": '{"write": {"a.json": {"pid": 1', "no bytes of text": "\udcff", "a list": "[]"}


def left(folder: Path, text: str) -> Path:
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, errors="surrogateescape")
    return file


def entries(pid: int, command: str) -> dict[str, Any]:
    entry = {"pid": pid, "cmd": command}
    return {"write": {"/out/a.json": entry}, "read": {"/out/b.json": [entry]}}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_lock_is_named_and_mended(tmp_path: Path, text: str) -> None:
    file = left(tmp_path, text)
    lines: list[str] = []

    with pytest.raises(UserError, match="found it damaged, .* remove it: rm .dvc/tmp/rwlock"):
        check(tmp_path)
    assert file.exists()
    mend(tmp_path, lines.append)
    assert not file.exists()
    assert len(lines) == 1
    check(tmp_path)


def test_a_reused_process_number_is_mended(tmp_path: Path) -> None:
    file = left(tmp_path, json.dumps(entries(os.getpid(), "dvc repro a")))
    lines: list[str] = []

    with pytest.raises(UserError, match=f"command `dvc repro a` as process {os.getpid()}, .* remove it"):
        check(tmp_path)
    with one_writer(tmp_path, name="flow", say=lines.append):
        assert json.loads(file.read_text()) == {"write": {}, "read": {}}
    assert len(lines) == 1


def test_a_live_commands_entry_stays(tmp_path: Path) -> None:
    file = left(tmp_path, json.dumps(entries(os.getpid(), " ".join(sys.argv))))

    mend(tmp_path, lambda line: pytest.fail(line))
    check(tmp_path)
    assert json.loads(file.read_text()) == entries(os.getpid(), " ".join(sys.argv))


@pytest.mark.parametrize("ask", [check, lambda folder: mend(folder, pytest.fail)], ids=["check", "mend"])
def test_a_held_lock_names_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Path], None]
) -> None:
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0)
    file = left(tmp_path, json.dumps(entries(os.getpid(), "dvc repro a")))
    lock = zc.lockfile.LockFile(f"{file}.lock")
    try:
        with pytest.raises(UserError, match=f"rwlock.lock, found process {os.getpid()} holding it; wait .* or stop it"):
            ask(tmp_path)
    finally:
        lock.close()
    assert json.loads(file.read_text()) == entries(os.getpid(), "dvc repro a")


def test_dvc_runs_after_a_lock_is_mended(dvc_repo: ToyRepo) -> None:
    """DVC refuses both kinds itself, so the day it mends them, this module can go."""
    for text in ("", json.dumps(entries(os.getpid(), "dvc repro a")).replace("/out/a", f"{dvc_repo.path}/prepare")):
        left(dvc_repo.path, text)
        refused = subprocess.run([*DVC, "repro", "prepare"], cwd=dvc_repo.path, capture_output=True, text=True)
        assert refused.returncode != 0
        mend(dvc_repo.path, lambda _: None)
        dvc_repo.dvc("repro", "prepare")


def test_make_repro_says_what_to_do(tmp_path: Path) -> None:
    left(tmp_path, "")
    command = [sys.executable, "-m", "pipelines.dvc_lock"]
    refused = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True
    )

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.endswith("remove it: rm .dvc/tmp/rwlock\n")
    recipe = (PROJECT / "Makefile").read_text().split("\nrepro:")[1].splitlines()
    assert recipe[1:3] == ["\t@python -m pipelines.dvc_lock", "\t@dvc repro"]
