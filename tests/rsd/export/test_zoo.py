"""A small model of many of timm's families is exported in every precision, and says what PyTorch says."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch

from rsd.export import precisions
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.ungated import write_files
from rsd.models.pixels import RawPixels
from tests.rsd.export.conftest import lively, squares

WINDOWS: dict[str, Any] = {"img_size": 64, "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}
SMALL: dict[str, dict[str, Any]] = {
    "hiera_tiny_224": WINDOWS,
    **{name: {} for name in timm.list_models("test_*") if name not in ("test_vit2", "test_vit3", "test_vit4")},
}
"""timm's own models for tests, and families whose attention is not exported as it is."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_model_is_exported_in_every_precision(tmp_path, name):
    args = SMALL[name]
    side = args.get("img_size") or timm.get_pretrained_cfg(name).input_size[-1]  # type: ignore[union-attr]
    model = lively(timm.create_model(name, num_classes=10, **args))
    paths = {precision: tmp_path / f"{precision}.onnx" for precision in precisions.names()}
    write_files(model, paths, mean=[0.5] * 3, std=[0.5] * 3, image_shape=(side, side, 3), classes=10)
    pixels = squares(4, side, 3)
    with torch.no_grad():
        expected = RawPixels(model, [0.5] * 3, [0.5] * 3)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(logits_of(paths["fp32"], pixels), expected, atol=1e-3 * np.ptp(expected))
    for path in paths.values():
        assert ort.InferenceSession(path).run(None, {"image": pixels[:1]})[0].shape == (1, 10)
