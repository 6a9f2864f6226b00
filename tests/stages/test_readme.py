"""What the README shows is what happens."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from rsd.config import resolve
from rsd.errors import UserError
from tests.readme import README, block
from tests.stages.conftest import ROOT


def test_the_python_in_it_runs_on_the_bundle(reproduced):
    snippet = block("python", holding="onnxruntime")
    (reproduced.folder / "snippet.py").write_text(snippet)
    output = reproduced.run("python", "snippet.py").stdout
    (reproduced.folder / "snippet.py").unlink()
    assert re.fullmatch(r"\[('\d', ){7}'\d'\]\n", output)


def test_the_pair_in_it_is_valid(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "pair" / "mine").mkdir()
    (tmp_path / "conf" / "pair" / "mine" / "my-teacher.yaml").write_text(block("yaml", holding="my_teacher"))
    params = yaml.safe_load((tmp_path / "params.yaml").read_text()) | {"pair": "mine/my-teacher"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert resolve(tmp_path / "params.yaml", tmp_path / "conf")["teacher"]["source"] == "file"


def test_the_refusal_in_it_is_what_is_printed(tmp_path, monkeypatch):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["method"]["rsd"]["kappa"], params["views"]["count"] = -1, "many"
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    shutil.copytree(ROOT / "conf", "conf")
    with pytest.raises(UserError) as caught:
        resolve(Path("params.yaml"), Path("conf"))
    assert f"error: {caught.value}\n" in README


def test_the_engine_is_opened_as_it_says_or_a_sentence_says_why_not(reproduced):
    said = reproduced.run(sys.executable, "-c", block("python", holding="open_engine")).stdout.strip()
    assert said.startswith(("expected ", "[")), said


def test_the_bundle_becomes_a_model_repository_by_the_command_it_gives(reproduced, tmp_path):
    (command,) = re.findall(r"^(python -m rsd\.export\.triton .*) models$", README, re.M)
    reproduced.run(*command.split(), str(tmp_path))
    assert (tmp_path / "digits-fp32-onnx" / "1" / "model.onnx").is_file()


def test_every_make_target_and_option_in_it_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)) <= targets
    keys = {key for key in re.findall(r"-S '?([a-z.]+)=", README) if not key.startswith("+")}
    for key in keys:
        place = yaml.safe_load((ROOT / "params.yaml").read_text())
        for part in key.split("."):
            assert part in place, key
            place = place[part]
