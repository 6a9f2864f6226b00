"""Students that start from weights from elsewhere, through the stages that meet them; in this process, without DVC."""

import json
import shutil
import sys

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.machine.yaml_file import read_yaml
from rsd.models.folder import load_trained
from rsd.sources.images import read_split
from stages import OUT, distill, export, params, prepare, sources, students, teacher
from tests.stages.conftest import ROOT, TINY, killed

MEAN, STD = 0.25, 0.75


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a teacher whose student starts from the folder `first`, of other classes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", "conf")
    pair = read_yaml(ROOT / "conf" / "pair" / "digits" / "resnet-vit.yaml")["student"]
    args = pair["args"] | TINY["override"]["student"]["args"]
    first = timm.create_model(pair["name"], num_classes=5, in_chans=1, **args)
    save_for_hf(
        first, "first", model_config={"pretrained_cfg": {"mean": [MEAN], "std": [STD]}}, safe_serialization=True
    )
    override = {name: dict(values) for name, values in TINY["override"].items()}
    override["student"]["weights"] = "first"
    override["teacher_recipe"] |= {"epochs": 1, "warmup_epochs": 0}
    override["recipe"] |= {"epochs": 2}
    changes = {"pair": "digits/resnet-vit", "methods": ["scratch"], "override": override}
    changes["export"] = TINY["export"] | {"method": "scratch"}
    with open("params.yaml", "w") as file:
        json.dump(read_yaml(ROOT / "params.yaml") | TINY | changes, file)
    for stage in (params, sources, prepare, teacher):
        stage.main()
    monkeypatch.setattr(sys, "argv", ["distill", "scratch", "0"])
    yield tmp_path
    torch.use_deterministic_algorithms(False)


def test_the_exported_graph_normalises_as_the_weights(project, capsys):
    distill.main()
    output = capsys.readouterr().out
    assert "scratch-0 starts from first (SHA-256 " in output
    assert "is fed images as they are served, mean 0.25, std 0.75 (from first/config.json" in output
    record = OUT.student("scratch", 0)
    assert (record.mean, record.std) == ([MEAN], [STD])
    assert record.start is not None
    assert (record.start.sha256, record.start.new_head) == (sha256(project / "first" / "model.safetensors"), True)
    assert "fine-tuned without a teacher" in (record.folder / "README.md").read_text()

    students.main()
    export.main()
    assert OUT.export().preprocessing.mean == [MEAN]
    reference = load_trained(record.folder).model.double()
    images = np.array(read_split(OUT.data, "test").images[:32])
    with torch.no_grad():
        expected = reference((torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - MEAN) / STD)
    (logits,) = onnxruntime.InferenceSession(OUT.export_folder / "model.onnx").run(["logits"], {"image": images})
    assert np.allclose(logits, expected, atol=1e-4)


def test_weights_that_do_not_fit_stop_the_teacher(project):
    save_file({"fc.bias": torch.zeros(5)}, project / "first" / "model.safetensors")
    with pytest.raises(UserError, match="do not fit the student 'vit_tiny_patch16_224'"):
        teacher.main()
    shutil.rmtree("first")
    with pytest.raises(UserError, match="expected weights at first, found no such file"):
        teacher.main()


def test_a_killed_student_resumes_unless_weights_change(project, monkeypatch, capsys):
    weights = OUT.student_folder("scratch-0") / "model.safetensors"
    distill.main()
    undisturbed = weights.read_bytes()

    killed(monkeypatch, distill.main)
    distill.main()
    assert "resumed after epoch 1" in capsys.readouterr().err
    assert weights.read_bytes() == undisturbed

    killed(monkeypatch, distill.main)
    first = project / "first" / "model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(first).items()}, first)
    before = OUT.sources_file("student").read_bytes()
    sources.main()
    assert OUT.sources_file("student").read_bytes() != before  # by which DVC knows it
    assert OUT.stale() == {"students/scratch-0/student.json": "sources/student.json is another by now"}
    distill.main()
    assert "resumed" not in capsys.readouterr().err
    assert weights.read_bytes() != undisturbed
    assert OUT.stale() == {}
