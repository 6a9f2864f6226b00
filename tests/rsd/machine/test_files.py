import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from rsd.machine.files import move_folder, read_json, sha256, write_json, write_table, written_aside


def test_a_failure_leaves_the_old_file_only(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("folder", [False, True])
def test_a_killed_writer_leaves_the_old_content(tmp_path, folder):
    path = tmp_path / "out"
    write = "(aside / 'part').write_text('half')" if folder else "aside.write_text('half')"
    make = "aside.mkdir()" if folder else "pass"
    program = f"""
        import os, signal, pathlib
        from rsd.machine.files import written_aside
        with written_aside(pathlib.Path({str(path)!r})) as aside:
            {make}
            {write}
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    with written_aside(path) as aside:
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_replaces_the_whole_old_folder(tmp_path):
    for name in ("first", "second"):
        with written_aside(tmp_path / "out") as aside:
            aside.mkdir()
            (aside / name).touch()
    assert os.listdir(tmp_path / "out") == ["second"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_folder_is_moved_across_file_systems(tmp_path, monkeypatch, elsewhere):
    def refused(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    if elsewhere:
        monkeypatch.setattr(Path, "rename", refused)
    move_folder(tmp_path / "new", tmp_path / "old")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["old", "old/new"]


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert read_json(path) == {"a": [1, 2.5, None]}


def test_a_table_is_what_pandas_writes(tmp_path):
    rows = [{"epoch": 1.0, "loss": 0.1 + 0.2, "norm": float("nan")}, {"epoch": 2.0, "loss": 1e-7, "late": 1e22}]
    write_table(tmp_path / "ours.csv", rows)
    pd.DataFrame(rows).to_csv(tmp_path / "theirs.csv", index=False)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_sha256_of_known_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
