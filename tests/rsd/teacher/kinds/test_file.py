import json

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from rsd.machine.errors import UserError
from tests.rsd.teacher.small import ARGS, VIT, data, options, same, saved, saved_for_hub, timm_model

HALF = {"mean": [0.5], "std": [0.5]}


@pytest.mark.parametrize("safe", [True, False])
def test_a_hub_folder_gets_its_own_pixels(tmp_path, safe):
    net = timm_model()
    saved_for_hub(tmp_path, net, safe=safe, input_size=[1, 24, 24], interpolation="bilinear", **HALF)
    start = options("file", tmp_path).start(data())
    assert same(start.model, net)
    assert start.preprocessing == ([0.5], [0.5], 24, "bilinear")
    assert "config.json" in start.stated_by

    images = torch.randint(0, 256, (2, 16, 16, 1), dtype=torch.uint8)
    exact = images.permute(0, 3, 1, 2).double() / 255
    exact = (resize(exact, [24, 24], InterpolationMode.BILINEAR, antialias=True) - 0.5) / 0.5
    assert torch.allclose(start.preprocessing.module()(images).double(), exact, atol=1e-5)


def test_a_bare_file_gets_timms_default(tmp_path):
    name = "vit_tiny_patch16_224"
    path = saved(tmp_path / "model.safetensors", timm_model(name, args=VIT | {"img_size": 16}))
    start = options("file", path, name=name, args=VIT | {"img_size": 16}).start(data())
    assert start.preprocessing == ([0.5], [0.5], None, "bicubic")
    path = saved(tmp_path / "model.safetensors", timm_model(channels=3))
    start = options("file", path).start(data(channels=3))
    assert start.preprocessing[:3] == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], None)
    assert f"no config.json lies beside {path}" in start.stated_by


def test_a_description_without_pixels_gets_timms(tmp_path):
    saved_for_hub(tmp_path, timm_model(channels=3))
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("mean", "std", "interpolation", "input_size"):
        del config["pretrained_cfg"][key]
    del config["model_args"]["in_chans"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = options("file", tmp_path).start(data(channels=3))
    assert start.preprocessing == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], None, "bicubic")


def test_params_overrule_a_description(tmp_path):
    saved_for_hub(tmp_path, timm_model(), input_size=[1, 24, 24], **HALF)
    start = options("file", tmp_path, mean=[0.1], std=[0.3], input_size=16).start(data())
    assert start.preprocessing[:3] == ([0.1], [0.3], 16)


def test_the_served_size_is_not_resized(tmp_path):
    saved_for_hub(tmp_path, timm_model(), input_size=[1, 16, 16], **HALF)
    assert options("file", tmp_path).start(data()).preprocessing.input_size is None
    saved_for_hub(tmp_path, timm_model(), input_size=[1, 24, 32], **HALF)
    with pytest.raises(UserError, match="found 24 x 32; set teacher.input_size"):
        options("file", tmp_path).start(data())


def test_classes_by_number_are_in_order(tmp_path):
    saved_for_hub(tmp_path, timm_model(), label_names={str(i): f"class {i}" for i in (2, 0, 1)}, **HALF)
    options("file", tmp_path, input_size=16).start(data())


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (
            {"label_names": ["class 1", "class 0", "class 2"]},
            "another order .class 0 is 'class 1' instead of 'class 0'",
        ),
        ({"label_names": ["class 0", "class 1"]}, "expected the data's 3 classes in .*, found 2 classes; "),
        ({"label_names": ["class 0", "class 1", "cat"]}, "found 3 classes, such as 'cat', unknown to it"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "as many values in mean as in std"),
        ({"mean": [0.5], "std": [0]}, r"std\.0: expected more than 0, found 0"),
    ],
)
def test_a_contradictory_description_is_one_sentence(tmp_path, stated, sentence):
    saved_for_hub(tmp_path, timm_model())
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= stated
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        options("file", tmp_path, args=ARGS).start(data())
