"""Which student and teacher are chosen."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from rsd.cli.start import models
from rsd.cli.start.models import DEVICES, SIDES, choose_student, choose_teacher, served_side
from rsd.export import precisions
from rsd.machine.errors import UserError


@pytest.fixture(params=[True, False], ids=["network", "no network"])
def network(request, monkeypatch):
    monkeypatch.setattr(models, "on_hub", lambda name: None if request.param else "no network")
    return request.param


def test_images_are_served_at_their_size_or_less():
    for device in DEVICES.values():
        for side in (10, 16, 50, 100, 500, 5_000):
            assert served_side(side, device) <= max(min(side, device.largest_side), SIDES[0])
    assert served_side(1_000, DEVICES["pi5"]) == 160


def test_devices_name_what_there_is():
    for device in DEVICES.values():
        assert timm.is_model(device.student)
        assert {*device.precisions} <= {*precisions.names()}


def test_a_student_takes_weights_within_reach(network):
    assert choose_student(None, 32, DEVICES["pi5"]).section == {}
    student = choose_student(None, 160, DEVICES["pi5"])
    assert student.options.name == DEVICES["pi5"].student
    assert student.section == ({"weights": "hub"} if network else {})


def test_without_a_network_a_teacher_is_trained_here(network):
    teacher = choose_teacher(None, classes=["a", "b"], labels=100)
    assert teacher.section["source"] == ("probe" if network else "pretrain")
    assert bool(teacher.advice) is not network


@pytest.mark.parametrize(
    ("labels", "gpu", "source"), [(100, True, "probe"), (5_000, True, "finetune"), (5_000, False, "probe")]
)
def test_labels_and_gpu_decide_how_a_teacher_learns(monkeypatch, labels, gpu, source):
    monkeypatch.setattr(models, "on_hub", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    teacher = choose_teacher("vit_small_patch14_dinov2.lvd142m", classes=["a", "b"], labels=labels)
    assert teacher.section == {"source": source, "weights": "hub"}
    assert teacher.options.args == {"img_size": 224}
    assert teacher.side == (224 if source == "probe" else None)


def test_a_files_head_decides_what_becomes_of_it(tmp_path):
    model = timm.create_model("test_resnet", num_classes=2)
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    with pytest.raises(UserError, match='config.json, which says what model .* write {"architecture": "NAME"}'):
        choose_teacher(str(file), classes=["a", "b"], labels=9)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    for path in (file, tmp_path):
        assert choose_teacher(str(path), classes=["a", "b"], labels=9).section == {
            "source": "file",
            "weights": str(path),
        }
        assert choose_teacher(str(path), classes=["a", "b", "c"], labels=9).section["source"] == "probe"
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    with pytest.raises(UserError, match="do not fit the teacher 'test_vit'"):
        choose_teacher(str(file), classes=["a", "b"], labels=9)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "label_names": ["b", "a"]}))
    assert choose_teacher(str(file), classes=["a", "b"], labels=9).section["source"] == "probe"
