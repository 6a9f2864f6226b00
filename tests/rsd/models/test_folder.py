"""Students and teachers in folders that timm and the hub read."""

import json
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_model_data_config
from torch import nn

from rsd.machine.errors import UserError
from rsd.models.folder import load_trained, load_weights, save_trained
from rsd.models.make import ModelOptions, create
from rsd.sources.images import DatasetRecord
from tests.junk import mutate
from tests.rsd.models.small import RESNET, SHAPE, STUDENTS, awake, dataset, side

PIXELS = {"mean": [0.3], "std": [0.2], "input_size": [1, 16, 16]}


def saved(folder: Path, options: ModelOptions, data: DatasetRecord, input_size: int | None = None) -> nn.Module:
    """An untrained model of these options, whose folder is written."""
    shape = (input_size or data.height, input_size or data.width, data.channels)
    torch.manual_seed(0)
    model = awake(create(options, classes=len(data.classes), image_shape=shape))
    save_trained(folder, model, model.state_dict(), data, mean=data.mean, std=data.std, input_size=input_size)
    return model


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("family", STUDENTS)
def test_timm_makes_the_student_with_its_very_logits(tmp_path, family, channels):
    model = saved(tmp_path, STUDENTS[family], dataset(side(family), channels))

    of_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    of_ours = load_trained(tmp_path).model

    images = torch.randn(3, channels, side(family), side(family))
    logits = model(images)
    assert logits.std() > 1e-3
    assert torch.equal(of_timm(images), logits)
    assert torch.equal(of_ours(images), logits)
    assert not of_ours.training


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_timms_own_families_come_back_as_teachers(tmp_path, name):
    input_size: Any = timm.get_pretrained_cfg_value(name, "input_size")
    size = input_size[-1]
    model = saved(tmp_path, ModelOptions(name=name), dataset(32, 3), input_size=size)

    of_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()

    images = torch.randn(2, 3, size, size)
    assert torch.equal(of_timm(images), model(images))
    assert torch.equal(load_trained(tmp_path).model(images), model(images))


def test_timm_learns_pixels_and_classes_of_the_folder(tmp_path):
    saved(tmp_path, RESNET, dataset(channels=3, crop_share=0.5))

    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)

    pixels = resolve_model_data_config(model)
    assert pixels["mean"] == [0.3] * 3
    assert pixels["std"] == [0.2] * 3
    assert pixels["input_size"] == (3, 16, 16)
    assert (pixels["interpolation"], pixels["crop_pct"], pixels["crop_mode"]) == ("bicubic", 0.5, "center")
    assert "Resize(size=32, interpolation=bicubic" in str(create_transform(**pixels))
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    assert config["label_names"] == ["class 0", "class 1"]


def test_a_new_head_keeps_the_rest(tmp_path):
    ours = saved(tmp_path, RESNET, dataset())

    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=5)

    weights = model.state_dict()
    assert weights["fc.weight"].shape == (5, 16)
    assert torch.equal(weights["conv1.weight"], ours.state_dict()["conv1.weight"])


def test_only_models_of_one_size_say_so(tmp_path):
    for family, fixed in {"vit": True, "resmlp": True, "cnn": False, "mobilenet": False}.items():
        saved(tmp_path / family, STUDENTS[family], dataset())
        config = json.loads((tmp_path / family / "config.json").read_text())
        assert config["pretrained_cfg"]["fixed_input_size"] is fixed
        assert ("img_size" in config["model_args"]) is fixed


def test_a_folder_claims_nothing_of_timms_own_weights(tmp_path):
    saved(tmp_path, RESNET, dataset())

    config = json.loads((tmp_path / "config.json").read_text())

    assert config["architecture"] == "resnet18"
    assert not {"tag", "license", "url", "hf_hub_id", "origin_url", "paper_ids"} & config["pretrained_cfg"].keys()


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        saved(tmp_path / name, RESNET, dataset())
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_images_of_another_size_become_the_models(tmp_path):
    saved(tmp_path, RESNET, dataset(side=12), input_size=20)

    _, normalize, config = load_trained(tmp_path)

    assert normalize(torch.zeros(1, 12, 12, 1, dtype=torch.uint8)).shape == (1, 1, 20, 20)
    assert config.image_shape == (20, 20, 1)


def test_pixels_that_a_folder_omits_are_timms(tmp_path):
    saved(tmp_path, RESNET, dataset(channels=3))
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("mean", "std"):
        del config["pretrained_cfg"][key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    normalize = load_trained(tmp_path).normalize
    assert torch.equal(normalize.mean, torch.tensor(IMAGENET_DEFAULT_MEAN))
    assert torch.equal(normalize.std, torch.tensor(IMAGENET_DEFAULT_STD))


def test_a_folders_own_interpolation_is_used(tmp_path):
    model = saved(tmp_path, RESNET, dataset(side=12), input_size=20)
    images = torch.randint(0, 256, (2, 12, 12, 1), dtype=torch.uint8)
    inputs = {}
    for mode in ("bicubic", "bilinear"):
        save_trained(
            tmp_path, model, model.state_dict(), dataset(side=12), mean=[0.0], std=[1.0], input_size=20,
            interpolation=mode,
        )  # fmt: skip
        inputs[mode] = load_trained(tmp_path).normalize(images)
        planes = images.permute(0, 3, 1, 2) / 255
        expected = nn.functional.interpolate(planes, (20, 20), mode=mode, antialias=True).clamp(0, 1)
        assert torch.allclose(inputs[mode], expected, atol=1e-6)
    assert not torch.allclose(inputs["bicubic"], inputs["bilinear"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (None, "found none"),
        ("nonsense", "JSONDecodeError"),
        ({"architecture": "resnet81"}, "found 'resnet81'; did you mean"),
        ({"num_classes": 0}, "num_classes: expected (more than 0|at least 1)"),
        (
            {"pretrained_cfg": {"mean": [0.3], "std": [0.0], "input_size": [1, 16, 16]}},
            "std.0: expected more than",
        ),
        (
            {"pretrained_cfg": {"mean": [0.3], "std": [0.2], "input_size": [1, 1 << 62, 16]}},
            "input_size.1: expected",
        ),
        ({"pretrained_cfg": PIXELS | {"mean": [0.1, 0.2]}}, "as many values in mean as in std, found 2 and 1"),
        ({"pretrained_cfg": []}, "AttributeError"),
        ({"model_args": {"widht": 3}}, "expected arguments that timm's 'resnet18' takes"),
    ],
)
def test_a_damaged_config_is_explained(tmp_path, change, fault):
    saved(tmp_path, RESNET, dataset())
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | change) if isinstance(change, dict) else change or "")
    if change is None:
        config.unlink()

    with pytest.raises(UserError, match=fault):
        load_trained(tmp_path)


def test_misfitting_weights_are_named(tmp_path):
    path = tmp_path / "w.safetensors"
    model = timm.create_model("resnet18", num_classes=2, in_chans=1, **RESNET.args)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    state["fc.weight"] = torch.zeros(3, 16)
    state["extra"] = state.pop("conv1.weight")
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    for part in ("missing (first: conv1.weight)", "unknown (first: extra)", "fc.weight is [3, 16] instead of [2, 16]"):
        assert part in str(caught.value)


def test_missing_and_damaged_weights_are_explained(tmp_path):
    model = create(RESNET, classes=2, image_shape=SHAPE)
    with pytest.raises(UserError, match="found no such file"):
        load_weights(model, tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="expected a safetensors file"):
        load_weights(model, tmp_path / "bad.safetensors")


def test_a_malformed_config_ends_in_a_sentence(tmp_path):
    saved(tmp_path, RESNET, dataset(16, 1))
    path = tmp_path / "config.json"
    whole = path.read_text()
    chance = random.Random(0)
    for _ in range(150):
        config = json.loads(whole)
        mutate(chance, config)
        path.write_text(json.dumps(config))
        with suppress(UserError):
            load_trained(tmp_path)
    large = {"std": [0.0], "mean": [float("nan")], "input_size": [1, 2**62, 16], "crop_pct": float("inf")}
    for name, value in large.items():
        config = json.loads(whole)
        config["pretrained_cfg"][name] = value
        path.write_text(json.dumps(config))
        with pytest.raises(UserError, match="expected timm's description of a model"):
            load_trained(tmp_path)
    config = json.loads(whole) | {"num_classes": 2**62}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="^expected "):
        load_trained(tmp_path)


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from rsd.models.folder import save_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: the write fails, the process lives
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_weights({"weight": torch.zeros(100_000)}, Path(sys.argv[1]))
except OSError as error:
    print(error)
"""


def test_a_full_disk_raises_an_oserror(tmp_path):
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"the last good one")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(target)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{target}: File too large (os error 27)\n"
    assert target.read_bytes() == b"the last good one"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
