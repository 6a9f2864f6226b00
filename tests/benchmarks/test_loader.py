import numpy as np
import torch

from benchmarks.loader import BATCH, POLICY, _Pictures, ours, theirs, write_jpegs
from rsd.sources.images import ArrayImages
from rsd.views.augment import AugmentOptions
from rsd.views.crop import CropOptions


def test_both_loaders_serve_the_same_kind_of_batches(tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 100, BATCH)
    augment = AugmentOptions(crop=CropOptions(), flip=True, randaugment=POLICY)
    mine = next(ours(ArrayImages(pixels), labels, augment))
    images, targets = next(theirs(_Pictures(pixels, labels), 32, POLICY))
    assert mine.raw.dtype == images.dtype == torch.uint8
    assert mine.raw.shape == (BATCH, 32, 32, 3)
    assert images.shape == (BATCH, 3, 32, 32)
    assert sorted(mine.target.tolist()) == sorted(targets.tolist()) == sorted(labels.tolist())
    assert write_jpegs(tmp_path, 5)[:5].shape == (5, 224, 224, 3)
