"""Views that are made where the training is, here the CPU through the same code."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from rsd.sources.images import ArrayImages, LabelledImages
from rsd.views import on_device
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.batches import batches, epoch_plan
from rsd.views.crop import CropOptions
from rsd.views.on_device import device_batches, fits

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GENERATOR = np.random.default_rng(0)
PIXELS, LABELS = GENERATOR.integers(0, 256, (50, 9, 12, 3), np.uint8), GENERATOR.integers(-1, 5, 50)


def labelled(images):
    return LabelledImages(images, LABELS, list("abcde"))


@pytest.mark.parametrize("array", [PIXELS, ArrayImages(PIXELS)])
@pytest.mark.parametrize(
    "augment",
    [
        AugmentOptions(),
        AugmentOptions(flip=True),
        AugmentOptions(shift=3),
        AugmentOptions(shift=20, flip=True),
        AugmentOptions(shift=2, flip=True, repeats=3),
    ],
)
def test_its_batches_have_the_cpus_bits(array, augment):
    plan = partial(epoch_plan, images=50, batch_size=12, augment=augment, seed=1, view_choice=ViewChoice(7))
    options: dict[str, Any] = {"seed": 7, "numbers": range(2, 11)}  # from within an epoch to within the third
    ours = device_batches(labelled(array), plan, 4, augment, CPU, **options)
    theirs = batches(labelled(array), plan, 4, augment, **options)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.raw, other.raw)
        assert torch.equal(one.target, other.target)
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.views, other.views)


@pytest.fixture
def free(monkeypatch):
    """The free bytes of a GPU, as a function that sets them."""
    return lambda count: monkeypatch.setattr(on_device.torch.cuda, "mem_get_info", lambda device: (count, count))


def test_images_that_only_move_fit(free):
    free(10 * PIXELS.nbytes)
    moving = AugmentOptions(shift=2, flip=True)
    assert fits(labelled(PIXELS), moving, GPU)
    assert not fits(labelled(PIXELS), moving, CPU)
    assert not fits(labelled(ArrayImages(PIXELS, 24)), moving, GPU)  # which are resized when they are served
    free(3 * PIXELS.nbytes)
    assert not fits(labelled(PIXELS), moving, GPU)


@pytest.mark.parametrize(
    "changes",
    [{"crop": CropOptions()}, {"randaugment": "rand-m9"}, {"color_jitter": 0.1}, {"erase": 0.2}, {"mixup": 1}],
)
def test_other_changes_stay_on_the_cpu(free, changes):
    free(10 * PIXELS.nbytes)
    assert not fits(labelled(PIXELS), AugmentOptions(**changes), GPU)
