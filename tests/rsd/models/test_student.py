"""Students that start from weights from elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.models.checkpoint_file import head_names
from rsd.models.folder import save_trained
from rsd.models.make import create
from rsd.models.student import StudentOptions, StudentStart
from tests.rsd.models.small import STUDENTS, awake, dataset, side
from tests.rsd.teacher.small import saved, saved_for_hub


def start(family: str, weights: str, *, seed: int = 0, classes: int = 2, channels: int = 1) -> StudentStart:
    data = dataset(side(family), channels, classes)
    torch.manual_seed(seed)
    return StudentOptions(**STUDENTS[family].model_dump(), weights=weights).start(data)


def trained(family: str, *, classes: int = 2, channels: int = 1) -> nn.Module:
    """A model whose every parameter differs from a new one's."""
    shape = (side(family), side(family), channels)
    return awake(create(STUDENTS[family], classes=classes, image_shape=shape))


def equal(model: nn.Module, other: nn.Module) -> set[str]:
    """Names of equal entries of two states."""
    state, expected = model.state_dict(), other.state_dict()
    return {name for name in expected if torch.equal(state[name], expected[name])}


def test_without_weights_it_is_the_seeds_model():
    new = start("vit", "none", seed=3)
    torch.manual_seed(3)
    assert equal(new.model, create(STUDENTS["vit"], classes=2, image_shape=(16, 16, 1))) == {*new.model.state_dict()}
    assert new.preprocessing == ([0.3], [0.2], None, "bicubic")
    assert new.weights is None


@pytest.mark.parametrize("family", STUDENTS)
def test_every_family_starts_from_a_students_folder(tmp_path, family):
    model, data = trained(family), dataset(side(family))
    save_trained(tmp_path, model, model.state_dict(), data, mean=[0.11], std=[0.22])
    begun = start(family, str(tmp_path))
    assert equal(begun.model, model) == {*model.state_dict()}
    assert begun.model.training
    assert begun.preprocessing[:2] == ([0.11], [0.22])
    assert begun.weights is not None
    assert begun.weights.sha256 == sha256(tmp_path / "model.safetensors")
    assert (begun.weights.name, begun.weights.license, begun.weights.new_head) == (str(tmp_path), None, False)


@pytest.mark.parametrize("family", ["cnn", "vit", "resmlp"])
def test_a_head_of_other_classes_is_the_seeds(tmp_path, family):
    path = saved(tmp_path / "model.safetensors", model := trained(family, classes=5))
    first, again, other = (start(family, str(path), seed=seed) for seed in (0, 0, 1))
    head = {*head_names(model)}
    assert equal(first.model, model) == {*model.state_dict()} - head
    assert equal(first.model, start(family, "none").model) >= head
    assert equal(first.model, again.model) == {*model.state_dict()}
    assert {*model.state_dict()} - equal(first.model, other.model) <= head
    assert first.weights is not None
    assert first.weights.new_head


@pytest.mark.parametrize("names", [["class 1", "class 0"], ["cat", "dog"]])
def test_a_head_for_other_names_is_new(tmp_path, names):
    saved_for_hub(tmp_path, model := trained("cnn"), label_names=names, mean=[0.5], std=[0.5])
    begun = start("cnn", str(tmp_path))
    assert equal(begun.model, model) == {*model.state_dict()} - {*head_names(model)}


def test_a_file_of_tensors_gets_timms_pixels(tmp_path):
    model = trained("cnn", channels=3)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mine.pth")
    begun = start("cnn", str(tmp_path / "mine.pth"), channels=3)
    assert equal(begun.model, model) == {*model.state_dict()}
    assert begun.preprocessing[:2] == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert "no config.json lies beside" in begun.stated_by
    assert begun.weights is not None
    assert begun.weights.license is None  # timm's licence is of timm's weights


def test_colour_weights_serve_a_grey_student(tmp_path):
    saved_for_hub(tmp_path, model := trained("cnn", channels=3), mean=[0.2, 0.3, 0.4], std=[0.1, 0.2, 0.3])
    begun = start("cnn", str(tmp_path))
    grey = torch.randn(4, 1, 16, 16)
    assert torch.allclose(begun.model.eval()(grey), model(grey.expand(-1, 3, -1, -1)), atol=1e-5)
    assert begun.preprocessing[:2] == ([pytest.approx(0.3)], [pytest.approx(0.2)])


def test_a_stated_licence_is_kept(tmp_path):
    saved_for_hub(tmp_path, trained("cnn"))
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["license"] = "mit"
    (tmp_path / "config.json").write_text(json.dumps(config))
    begun = start("cnn", str(tmp_path))
    assert begun.weights is not None
    assert begun.weights.license == "mit"


def test_weights_of_another_model_are_named(tmp_path):
    path = saved(tmp_path / "model.safetensors", trained("vit"))
    with pytest.raises(UserError, match=r"do not fit the student 'resnet18' .*give weights of this model"):
        start("cnn", str(path))


def test_missing_weights_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="expected weights at .*none.pth, found no such file; give the path of a file"):
        start("cnn", str(tmp_path / "none.pth"))


def test_the_hub_without_a_network_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for weights in ("hub", "hf-hub:mine/net"):
        with pytest.raises(UserError, match="cannot be had .*set HF_HOME .*give that folder as student.weights"):
            start("cnn", weights)


def test_a_model_without_hub_weights_is_refused():
    with pytest.raises(ValidationError, match="with weights on timm's hub with student.weights hub, found that 'resm"):
        StudentOptions(**STUDENTS["resmlp"].model_dump(), weights="hub")


@pytest.mark.parametrize("path", ["out/students/rsd-0", "./out/../out/teacher", "{here}/out/students/rsd-0"])
def test_weights_of_this_run_are_refused(monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match="out/ is written anew by every run; copy them out of it first"):
        StudentOptions(name="resnet18", weights=path.format(here=Path.cwd()))


def test_paths_are_watched_and_names_are_not():
    watched = [StudentOptions(name="resnet18", weights=one).watched for one in ("none", "hub", "hf-hub:a/b", "~/mine")]
    assert watched == [[], [], [], [Path.home() / "mine"]]
