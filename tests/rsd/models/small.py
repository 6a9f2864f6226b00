"""Small models of each family, and data for them."""

import torch
from torch import nn

from rsd.models.make import ModelOptions
from rsd.sources.images import DatasetRecord

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
MLP = {"img_size": 16, "patch_size": 4, "num_blocks": 2, "embed_dim": 8}
SWIN = {"img_size": 32, "window_size": 4, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]}
STUDENTS = FAMILIES | {
    "swin-n": ModelOptions(name="swin_tiny_patch4_window7_224", args=SWIN | {"embed_dim": 64}),
    "swin-p": ModelOptions(name="swin_tiny_patch4_window7_224", args=SWIN | {"embed_dim": 48}),
    "mobilenet": ModelOptions(name="mobilenetv2_050"),
    "resmlp": ModelOptions(name="resmlp", args=MLP),
    "mixer": ModelOptions(name="mlp_mixer", args=MLP),
}


def side(family: str) -> int:
    """Of the images that the student takes, in pixels."""
    return int(STUDENTS[family].args.get("img_size", 16))


def dataset(side: int = 16, channels: int = 1, classes: int = 2, crop_share: float | None = None) -> DatasetRecord:
    return DatasetRecord(
        source="digits",
        kept="files" if crop_share else "arrays",
        crop_share=crop_share,
        classes=[f"class {number}" for number in range(classes)],
        height=side,
        width=side,
        channels=channels,
        mean=[0.3] * channels,
        std=[0.2] * channels,
        counts={"train": 20, "validation": 10, "test": 5},
        checksums={},
    )


@torch.no_grad()
def awake(model: nn.Module) -> nn.Module:
    """The model with random parameters: timm starts some heads and branches at zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
