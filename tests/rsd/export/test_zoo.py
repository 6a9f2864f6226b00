"""A small model of many of timm's families says in every form what PyTorch says: stripped, and in each precision.

The models are untrained, but as lively as trained ones: a model whose logits hardly depend on the image proves nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from rsd.export import precisions
from rsd.export.ladder import Ladder
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.strip import AsTrained, judge_stripped
from rsd.export.ungated import write_files
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import PixelNormalize, RawPixels
from rsd.sources.images import ArrayImages, LabelledImages
from tests.rsd.export.conftest import MEAN, STD, lively, squares, telling
from tests.rsd.export.test_strip import DATA, EXACT, trained

WINDOWS: dict[str, Any] = {"img_size": 64, "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}
SMALL: dict[str, dict[str, Any]] = {
    "hiera_tiny_224": WINDOWS,
    **{name: {} for name in timm.list_models("test_*") if name not in ("test_vit2", "test_vit3", "test_vit4")},
}
"""timm's own models for tests, and families whose attention is not exported as it is."""
LEAST = {"fp32": 1 - 1e-6, "fp16": 0.999, "int8": 0.9}
"""Cosine with PyTorch's logits, of which the mean over the images is 0."""
PIXELS: dict[str, Any] = {"mean": MEAN * 3, "std": STD * 3}


def small(name: str) -> tuple[nn.Module, np.ndarray]:
    """The model, and images `[N, H, W, C]` for it."""
    args = SMALL[name]
    side = args.get("img_size") or timm.get_pretrained_cfg(name).input_size[-1]  # type: ignore[union-attr]
    images = squares(16, side, 3)
    model = lively(create(ModelOptions(name=name, args=args), classes=10, image_shape=images.shape[1:]))
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.std() < 0.03:  # timm's 0.02 lets a ConvNeXt's blocks add next to nothing
            nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    update_bn([torch.from_numpy(images)], RawPixels(model, **PIXELS))
    return telling(model.eval(), images, **PIXELS), images


def in_torch(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return RawPixels(model, **PIXELS)(torch.from_numpy(images)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_precision_of_a_family_answers_like_pytorch(tmp_path: Path, name: str) -> None:
    model, images = small(name)
    expected = in_torch(model, images)
    assert expected.std(axis=0).mean() > 0.05
    paths = {precision: tmp_path / f"{precision}.onnx" for precision in precisions.names()}
    calibration = ArrayImages(images)
    write_files(model, paths, **PIXELS, image_shape=images.shape[1:], classes=10, calibration=calibration)
    for precision, path in paths.items():
        logits = logits_of(path, images)
        cosine = np.sum(logits * expected) / np.linalg.norm(logits) / np.linalg.norm(expected)
        assert cosine > LEAST[precision], precision


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_stripped_student_of_a_family_is_unchanged(tmp_path: Path, name: str) -> None:
    model, images = small(name)
    record, teacher = trained(tmp_path, "rsd", model, images.shape[1:])
    within = AsTrained(record, teacher, image_count=100)
    ladder = Ladder(in_torch(model, images), LabelledImages(images, np.zeros(len(images), np.int64), DATA.classes))
    assert judge_stripped(ladder, EXACT, model, PixelNormalize(**PIXELS), within).max_difference == 0
