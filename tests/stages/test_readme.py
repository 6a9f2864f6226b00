"""The README and the pages show what happens."""

import json
import re
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsd.config.resolve import resolve
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.sources.kinds.folder import Folder, index_folder
from tests.readme import PAGES, README, block
from tests.stages.conftest import ROOT


def test_the_readme_is_short_and_links_every_page():
    assert len(README.split()) <= 1300
    assert set(re.findall(r"\(docs/(\w+)\.md[)#]", README)) == set(PAGES)


def test_the_onnx_snippet_runs_on_the_bundle(reproduced):
    (reproduced.folder / "snippet.py").write_text(block("python", holding="onnxruntime"))
    output = reproduced.run("python", "snippet.py").stdout
    (reproduced.folder / "snippet.py").unlink()
    assert re.fullmatch(r"\[('\d', ){7}'\d'\]\n", output)


def test_timm_loads_a_student_as_shown(reproduced):
    output = reproduced.run("python", "-c", block("python", holding="local-dir")).stdout
    assert re.fullmatch(r"\(1, 8, 8\) .*\ntorch.Size\(\[1, 10\]\)\n", output)


def test_the_pair_with_your_own_teacher_is_valid(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "pair" / "mine").mkdir()
    (tmp_path / "conf" / "pair" / "mine" / "my-teacher.yaml").write_text(block("yaml", holding="my_teacher"))
    params = read_yaml(tmp_path / "params.yaml") | {"pair": "mine/my-teacher"}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    assert resolve(tmp_path / "params.yaml", tmp_path / "conf")["teacher"]["source"] == "file"


def test_own_images_and_a_probe_are_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "data" / "mine.yaml").write_text(block("yaml", holding="my-images", page=PAGES["data"]))
    (tmp_path / "conf" / "pair" / "mine").mkdir()
    pair = "data: mine\nrecipe: cifar_cnn\nstudent: {name: resnet18}\n" + block("yaml", holding="source: probe")
    (tmp_path / "conf" / "pair" / "mine" / "probe.yaml").write_text(pair)
    params = read_yaml(ROOT / "params.yaml") | {"pair": "mine/probe"}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    resolved = resolve(tmp_path / "params.yaml", tmp_path / "conf")
    assert resolved["data"]["root"] == str(tmp_path / "my-images")
    assert resolved["teacher"]["select"] == "validation"


def test_a_folder_with_faults_gets_the_list_shown(tmp_path):
    def image(seed):
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))

    for seed, (split, name, number) in enumerate(product(("train", "test"), ("cat", "dog"), range(4))):
        (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
        image(seed).save(tmp_path / split / name / f"{number:04}.jpg")
    train = tmp_path / "train"
    (train / "cat" / "0003.jpg").write_bytes((train / "cat" / "0003.jpg").read_bytes()[:-20])
    image(20).convert("CMYK").save(train / "cat" / "flyer.jpg")
    (train / "dog" / "0002.jpg").write_bytes(b"")
    shutil.copy(tmp_path / "test" / "dog" / "0001.jpg", train / "dog" / "again.jpg")
    Image.fromarray(np.full((16, 16), 999, np.uint16)).save(train / "dog" / "scan.png")
    (train / "fox").mkdir()
    with pytest.raises(UserError) as caught:
        index_folder(Folder(root=tmp_path, size=8))
    message = re.sub(r"\d+ bytes not", "5 bytes not", str(caught.value).replace(str(tmp_path), "ROOT"))
    assert f"error: {message}\n" in PAGES["data"]


def test_wrong_params_get_the_refusal_shown(tmp_path, monkeypatch):
    params = read_yaml(ROOT / "params.yaml")
    params["method"]["rsd"]["kappa"], params["views"]["count"] = -1, "many"
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(json.dumps(params))
    shutil.copytree(ROOT / "conf", "conf")
    with pytest.raises(UserError) as caught:
        resolve(Path("params.yaml"), Path("conf"))
    assert f"error: {caught.value}\n" in PAGES["experiments"]


def test_the_engine_opens_or_a_sentence_says_why(reproduced):
    printed = reproduced.run(sys.executable, "-c", block("python", holding="open_engine")).stdout.strip()
    assert printed.startswith(("expected ", "[")), printed


def test_every_make_target_and_option_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    everything = "\n".join([README, *PAGES.values()])
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", everything, re.M)) <= targets
    keys = {key for key in re.findall(r"-S '?([a-z_.]+)=", everything) if not key.startswith("+")}
    for key in keys:
        place = read_yaml(ROOT / "params.yaml")
        for part in key.split("."):
            assert part in place, key
            place = place[part]
