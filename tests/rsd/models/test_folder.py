import pytest
import timm
import torch
from safetensors.torch import save_file

from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.models.folder import input_shape, load_trained, load_weights, normalizer, save_weights
from rsd.models.make import create
from tests.rsd.models.small import RESNET, SHAPE


def test_a_trained_model_round_trips_through_its_folder(tmp_path):
    model = create(RESNET, classes=2, image_shape=SHAPE).eval()
    save_weights(model.state_dict(), tmp_path / "model.safetensors")
    record = {"model": RESNET.model_dump(), "classes": ["a", "b"], "height": 16, "width": 16, "mean": [0.0]}
    write_json(tmp_path / "student.json", record)
    again, read = load_trained(tmp_path, "student")
    assert read == record
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(again(images), model(images))
    assert not again.training


def test_a_normaliser_makes_its_models_input(tmp_path):
    record = {"model": RESNET.model_dump(), "classes": ["a"], "height": 12, "width": 16, "mean": [0.1], "std": [0.2]}
    image = torch.zeros(1, 12, 16, 1, dtype=torch.uint8)
    for sized in (record, record | {"input_size": None}, record | {"input_size": 20}):
        height, width, channels = input_shape(sized)
        assert normalizer(sized)(image).shape == (1, channels, height, width)
    assert input_shape(record | {"input_size": 20}) == (20, 20, 1)


def test_misfitting_weights_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    model = timm.create_model("resnet18", num_classes=2, in_chans=1, **RESNET.args)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    state["fc.weight"] = torch.zeros(3, 16)
    state["extra"] = state.pop("conv1.weight")
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        load_weights(model, path, what="the teacher")
    for part in ("missing (first: conv1.weight)", "unknown (first: extra)", "fc.weight is [3, 16] instead of [2, 16]"):
        assert part in str(caught.value)


def test_missing_and_damaged_weights_are_explained(tmp_path):
    model = create(RESNET, classes=2, image_shape=SHAPE)
    with pytest.raises(UserError, match="found no such file"):
        load_weights(model, tmp_path / "none.safetensors", what="x")
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="expected a safetensors file"):
        load_weights(model, tmp_path / "bad.safetensors", what="x")
