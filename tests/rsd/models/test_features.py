from typing import Any

import pytest
import timm
import torch

from rsd.machine.errors import UserError
from rsd.models.features import stage_shapes, staged_outputs
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import outputs

SHAPE = (64, 64, 3)
VIT: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 16, "num_heads": 2}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 24]}),
    "mobilenet": ("mobilenetv2_100", {}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2},
    ),
    "vit": ("vit_tiny_patch16_224", VIT | {"depth": 12}),
    "vit without a class token": (
        "vit_tiny_patch16_224",
        VIT | {"depth": 2, "class_token": False, "global_pool": "avg"},
    ),
    "distilled deit": ("deit_tiny_distilled_patch16_224", VIT | {"depth": 6}),
    "convnext": ("convnext_atto", {"dims": [8, 12, 16, 24], "depths": [1] * 4}),
}


def tiny(name):
    torch.manual_seed(0)
    if name == "mlp":
        # timm's named MLPs refuse another image size.
        return timm.models.mlp_mixer.MlpMixer(num_classes=5, img_size=64, patch_size=16, num_blocks=3, embed_dim=8)
    model, args = TINY[name]
    return create(ModelOptions(name=model, args=args), classes=5, image_shape=SHAPE)


@pytest.mark.parametrize("name", [*TINY, "mlp"])
def test_stages_change_neither_logits_nor_embedding(name):
    model, images = tiny(name).eval(), torch.randn(2, 3, 64, 64)
    staged = staged_outputs(model, images)
    plain = outputs(model, images)
    assert torch.equal(staged.logits, plain.logits)
    assert torch.equal(staged.embedding, plain.embedding)
    final = model.forward_features(images)
    last = staged.stages[-1]
    tokens = last.map.flatten(2).mT if last.prefix is None else torch.cat([last.prefix, last.map.flatten(2).mT], 1)
    whole = {3: lambda: final, 4: lambda: (final if name == "swin" else final.permute(0, 2, 3, 1)).flatten(1, 2)}
    assert torch.equal(tokens, whole[final.ndim]())


EXPECTED = {  # channels, side, prefix tokens; tokens or not
    "resnet": ([(8, 16, 0), (12, 8, 0), (16, 4, 0), (24, 2, 0)], False),
    "mobilenet": ([(24, 16, 0), (32, 8, 0), (96, 4, 0), (1280, 2, 0)], False),
    "swin": ([(8, 16, 0), (16, 8, 0), (32, 4, 0), (64, 2, 0)], True),
    "vit": ([(16, 4, 1)] * 4, True),
    "vit without a class token": ([(16, 4, 0)] * 4, True),
    "distilled deit": ([(16, 4, 2)] * 4, True),
    "convnext": ([(8, 16, 0), (12, 8, 0), (16, 4, 0), (24, 2, 0)], False),
    "mlp": ([(8, 4, 0)] * 4, True),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_shapes_are_those_of_the_four_stages(name):
    model = tiny(name).train()
    shapes = stage_shapes(model, SHAPE)
    stages, tokens = EXPECTED[name]
    assert shapes == tuple((channels, side, side, prefix, tokens) for channels, side, prefix in stages)
    assert model.training
    for shape, stage in zip(shapes, staged_outputs(model, torch.randn(2, 3, 64, 64)).stages, strict=True):
        assert stage.map.shape == (2, *shape[:3])
        assert (0 if stage.prefix is None else stage.prefix.shape[1]) == shape.prefix_tokens


def test_twelve_blocks_make_four_stages():
    model, images = tiny("vit").eval(), torch.randn(2, 3, 64, 64)
    _, every = model.forward_intermediates(images)
    stages = staged_outputs(model, images).stages
    for block, stage in zip((2, 4, 10), stages, strict=False):
        assert torch.equal(stage.map, every[block - 1])
    assert not torch.equal(stages[3].map, every[11])  # the last stage is after the final norm
    assert torch.equal(stages[3].map, model.forward_intermediates(images, norm=True)[1][11])


def test_gradients_flow_through_every_stage():
    model = tiny("mobilenet")
    for stage in staged_outputs(model, torch.randn(2, 3, 64, 64)).stages:
        assert stage.map.requires_grad


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("levit_128s", "3 levels"),
        ("crossvit_9_240", "a list of several maps"),
        ("nest_tiny", "0 levels|3 levels|no forward"),
    ],
)
def test_a_model_without_four_stages_is_refused(name, why):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=5)
    with pytest.raises(UserError, match=f"expected a model that timm can take apart into four stages.*({why})"):
        stage_shapes(model, (240, 240, 3) if name.startswith("crossvit") else (224, 224, 3))


def test_a_module_that_is_not_timms_is_refused():
    with pytest.raises(UserError, match="found Linear, which it cannot .it has no forward_intermediates"):
        stage_shapes(torch.nn.Linear(2, 2), (8, 8, 3))
