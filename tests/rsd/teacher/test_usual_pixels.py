"""A finished teacher that is fed the wrong pixels stops the pipeline."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.models.preprocessing import Preprocessing
from rsd.sources.images import LabelledImages
from rsd.teacher.usual_pixels import check_pixels
from tests.rsd.teacher.small import data, options

HALF = Preprocessing([0.5], [0.5])
RECORD = data(classes=2)  # of mean 0.4 and std 0.2


class Bright(nn.Module):
    """Class 1 where the mean of the input is above 0: right for images normalised about 0.5."""

    num_classes = 2

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        self.side, self.weight = side, nn.Parameter(torch.ones(1))

    def forward_features(self, inputs: Tensor) -> Tensor:
        if self.side and inputs.shape[-1] != self.side:
            return -inputs
        return inputs

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        mean = features.mean(dim=(1, 2, 3))[:, None]
        return mean if pre_logits else torch.cat([-mean, mean], dim=1) * self.weight


def images(count: int = 200) -> LabelledImages:
    brightness = np.random.default_rng(0).permutation(np.linspace(0, 255, count).astype(np.uint8))
    pixels = np.broadcast_to(brightness[:, None, None, None], (count, 16, 16, 1))
    return LabelledImages(pixels, (brightness > 127).astype(np.int64), RECORD.classes)


def check(fed: Preprocessing, side: int | None = None, **params) -> None:
    check_pixels(Bright(side), fed, options("file", "t.pth", **params), RECORD, images())


def test_better_usual_pixels_are_named():
    with pytest.raises(UserError, match=r"and 100.0 % with teacher.mean \[0.5\] and teacher.std \[0.5\]; set that"):
        check(Preprocessing(RECORD.mean, RECORD.std))


def test_a_better_size_is_named():
    check(HALF, side=16)
    with pytest.raises(UserError, match="and 100.0 % with teacher.input_size 16; set that"):
        check(HALF._replace(input_size=224), side=16)
    with pytest.raises(UserError, match="with teacher.input_size 224; set that"):
        check(HALF, side=224)


def test_what_the_params_say_is_kept():
    check(Preprocessing(RECORD.mean, RECORD.std), mean=[0.4], std=[0.2])
    check(HALF._replace(input_size=224), side=16, input_size=224)


def test_right_pixels_and_small_gains_pass():
    check(HALF)
    check(Preprocessing([0.48], [0.5]))
