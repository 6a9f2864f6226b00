"""The command as a user meets it: help, status, sentences."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsd import __version__
from tests.command import rsd

ROOT = Path(__file__).parents[3]
COMMANDS = {
    (): ["start", "table", "predict", "latency", "sustained", "triton", "check", "nodes", "budget", "sign"],
    ("budget",): ["kit", "run", "import", "keep", "show"],
    ("sign",): ["key", "bundle", "verify"],
}


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("group", COMMANDS, ids=["rsd", "budget", "sign"])
def test_help_lists_every_command_with_a_whole_sentence(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert not rsd(*group, "--help")
    listing = capsys.readouterr().out.partition("Commands:\n")[2]
    assert [line.split()[0] for line in listing.splitlines()] == COMMANDS[group]
    for line in listing.splitlines():
        assert re.fullmatch(r"  [a-z]+ +[A-Z].*[^.]\.", line), line


@pytest.mark.parametrize("command", [(*group, name) for group, names in COMMANDS.items() for name in names])
def test_each_command_shows_an_example(command, capsys, monkeypatch):
    if command in COMMANDS:
        return
    monkeypatch.setenv("COLUMNS", "200")
    assert not rsd(*command, "--help")
    assert f"Example: rsd {' '.join(command)}" in capsys.readouterr().out


def test_help_and_completion_load_no_heavy_library():
    program = (
        "import sys; from rsd.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    heavy = {"torch", "timm", "numpy", "pandas", "altair", "onnx"}
    completion = {"_RSD_COMPLETE": "complete_bash", "COMP_WORDS": "rsd ta", "COMP_CWORD": "1"}
    for arguments, variables in ((["--help"], {}), ([], completion)):
        answer = python("-c", program, *arguments, **variables)
        assert not heavy & set(answer.stderr.split())


def test_bash_completes_commands():
    words = {"_RSD_COMPLETE": "complete_bash", "COMP_WORDS": "rsd ta", "COMP_CWORD": "1"}
    assert python("-m", "rsd", **words).stdout.split() == ["table"]


def test_a_user_error_is_one_sentence(tmp_path):
    answer = python("-m", "rsd", "table", str(tmp_path))
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert re.fullmatch(r"error: .*; run `make repro`\n", answer.stderr)


def test_a_folder_without_rights_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    assert "error: expected to read and write" in rsd("sign", "key", str(tmp_path / "file" / "key"))


@pytest.mark.parametrize("arguments", [["tabel"], ["sign"], ["sustained"], ["triton", "a", "b", "--max-batch", "0"]])
def test_wrong_usage_has_status_two(arguments):
    assert rsd(*arguments) == "2"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: expected a command for the first node, found none; run `rsd nodes -- dvc repro`"),
        (["--node", "1"], "error: expected node 1 to know the first node, found no --leader; add --leader HOST"),
    ],
)
def test_nodes_without_a_place_are_a_sentence(arguments, sentence, monkeypatch):
    monkeypatch.delenv("SLURM_NODEID", raising=False)
    assert rsd("nodes", *arguments) == sentence


def test_the_version_is_printed(capsys):
    assert not rsd("--version")
    assert capsys.readouterr().out == f"{__version__}\n"


def test_sustained_writes_samples_record_words_and_plot(tiny_onnx, tmp_path, capsys):
    assert not rsd("sustained", str(tiny_onnx), "--for", "0.1s", "--folder", str(tmp_path))
    assert "p50 went from" in capsys.readouterr().out
    record = json.loads((tmp_path / "sustained.json").read_text())
    raw = np.load(tmp_path / "samples.npz")
    assert len(raw["nanoseconds"]) == sum(window["samples"] for window in record["windows"])
    assert (tmp_path / "sustained.svg").read_text().startswith("<svg")


def test_sustained_refuses_a_missing_model(tmp_path):
    assert "expected an ONNX file at" in rsd("sustained", str(tmp_path / "none.onnx"))


def test_check_prints_a_line_for_each_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "0.yaml").write_text(text)
    (tmp_path / "1.yaml").write_text("nothing: 1")
    assert not rsd("check", str(tmp_path))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line) for line in lines] == [["sections"], ["error"]]
