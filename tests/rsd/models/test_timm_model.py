import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.models.timm_model import (
    ModelOptions,
    PixelNormalize,
    RawPixels,
    create,
    embedding_width,
    input_shape,
    load_trained,
    load_weights,
    normalizer,
    outputs,
    parameter_count,
    predict,
    save_weights,
)

SHAPE = (16, 16, 1)
RESNET = ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})
FAMILIES = {
    "cnn": RESNET,
    "vit": ModelOptions(
        name="vit_tiny_patch16_224",
        args={"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    ),
    "convnext": ModelOptions(
        name="convnext_atto", args={"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "patch_size": 1}
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_models_own_logits_and_an_embedding_of_the_stated_width(family):
    model = create(FAMILIES[family], classes=5, image_shape=SHAPE).eval()
    images = torch.randn(3, 1, 16, 16)
    told = outputs(model, images)
    assert torch.equal(told.logits, model(images))
    assert told.embedding.shape == (3, embedding_width(model))


def test_pixels_are_normalised_in_float_and_channels_come_first():
    image = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    found = PixelNormalize(mean, std)(image)
    expected = (image.double().numpy() / 255 - np.array(mean)) / np.array(std)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("side", [9, 40])
def test_images_are_resized_as_timm_does_it_but_for_its_rounding_to_8_bits(side):
    image = torch.randint(64, 192, (3, 17, 24, 3), dtype=torch.uint8)  # PIL cuts off between its two passes
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = PixelNormalize(mean, std, size=side)(image)
    exact = image.permute(0, 3, 1, 2).double() / 255
    exact = resize(exact, [side, side], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    expected = (exact - torch.tensor(mean)[:, None, None].double()) / torch.tensor(std)[:, None, None].double()
    assert torch.allclose(found.double(), expected, atol=1e-5)
    prepare = create_transform((3, side, side), interpolation="bicubic", crop_pct=1.0, crop_mode="squash",
                               mean=mean, std=std)  # fmt: skip
    by_timm = torch.stack([prepare(Image.fromarray(one.numpy())) for one in image])
    assert (found - by_timm).abs().max() < 2 / 255 / min(std)


def test_images_that_have_the_size_already_are_not_touched():
    image = torch.randint(0, 256, (2, 6, 6, 1), dtype=torch.uint8)
    assert torch.equal(PixelNormalize([0.3], [0.2], size=6)(image), PixelNormalize([0.3], [0.2])(image))


def test_raw_pixels_adds_no_parameter_to_the_model():
    model = create(RESNET, classes=5, image_shape=SHAPE)
    assert parameter_count(RawPixels(model, [0.5], [0.5])) == parameter_count(model)


def test_prediction_does_not_depend_on_the_batch_size_and_restores_the_mode():
    model = create(RESNET, classes=5, image_shape=SHAPE).train()
    images = np.random.default_rng(0).integers(0, 256, (7, *SHAPE), dtype=np.uint8)
    normalize = PixelNormalize([0.5], [0.5])
    one, many = (predict(model, normalize, images, batch_size=size) for size in (7, 2))
    assert torch.allclose(one.logits, many.logits, atol=1e-5)
    assert torch.allclose(one.embedding, many.embedding, atol=1e-5)
    assert model.training


def test_prediction_with_workers_and_in_parts_gives_the_same_bits():
    model = create(RESNET, classes=5, image_shape=SHAPE)
    images = np.random.default_rng(0).integers(0, 256, (7, *SHAPE), dtype=np.uint8)
    normalize = PixelNormalize([0.5], [0.5])
    alone, helped, part = (
        predict(model, normalize, images, batch_size=2, **how)
        for how in ({}, {"workers": 2}, {"numbers": range(1, 3), "workers": 1})
    )
    assert torch.equal(alone.logits, helped.logits)
    assert torch.equal(alone.embedding, helped.embedding)
    assert torch.equal(alone.logits[2:6], part.logits)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (ModelOptions(name="resnet18", args={"widht": 3}), "expected arguments that timm's 'resnet18' takes"),
        (ModelOptions(name="vit_tiny_patch16_224"), "cannot take them"),
    ],
)
def test_a_model_that_cannot_be_made_is_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        create(options, classes=5, image_shape=SHAPE)


def test_a_name_that_timm_does_not_know_is_refused_with_near_ones():
    with pytest.raises(ValueError, match="found 'resnet81'; did you mean resnet"):
        ModelOptions(name="resnet81")


def test_a_trained_model_round_trips_through_its_folder(tmp_path):
    model = create(RESNET, classes=2, image_shape=SHAPE).eval()
    save_weights(model.state_dict(), tmp_path / "student.safetensors")
    record = {"model": RESNET.model_dump(), "classes": ["a", "b"], "height": 16, "width": 16, "mean": [0.0]}
    write_json(tmp_path / "student.json", record)
    again, read = load_trained(tmp_path, "student")
    assert read == record
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(again(images), model(images))
    assert not again.training


def test_a_records_normaliser_makes_what_its_model_takes(tmp_path):
    record = {"model": RESNET.model_dump(), "classes": ["a"], "height": 12, "width": 16, "mean": [0.1], "std": [0.2]}
    image = torch.zeros(1, 12, 16, 1, dtype=torch.uint8)
    for sized in (record, record | {"input_size": None}, record | {"input_size": 20}):
        height, width, channels = input_shape(sized)
        assert normalizer(sized)(image).shape == (1, channels, height, width)
    assert input_shape(record | {"input_size": 20}) == (20, 20, 1)


def test_weights_that_do_not_fit_name_what_does_not(tmp_path):
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


def test_missing_and_damaged_weights_are_one_sentence(tmp_path):
    model = create(RESNET, classes=2, image_shape=SHAPE)
    with pytest.raises(UserError, match="found no such file"):
        load_weights(model, tmp_path / "none.safetensors", what="x")
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="expected a safetensors file"):
        load_weights(model, tmp_path / "bad.safetensors", what="x")
