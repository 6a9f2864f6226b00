import numpy as np
import torch

from rsd.models.make import create
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict
from tests.rsd.models.small import RESNET, SHAPE


def test_batch_size_changes_neither_predictions_nor_mode():
    model = create(RESNET, classes=5, image_shape=SHAPE).train()
    images = np.random.default_rng(0).integers(0, 256, (7, *SHAPE), dtype=np.uint8)
    normalize = PixelNormalize([0.5], [0.5])
    one, many = (predict(model, normalize, images, batch_size=size) for size in (7, 2))
    assert torch.allclose(one.logits, many.logits, atol=1e-5)
    assert torch.allclose(one.embedding, many.embedding, atol=1e-5)
    assert model.training


def test_workers_and_parts_give_the_same_bits():
    model = create(RESNET, classes=5, image_shape=SHAPE)
    images = np.random.default_rng(0).integers(0, 256, (7, *SHAPE), dtype=np.uint8)
    normalize = PixelNormalize([0.5], [0.5])
    alone, helped, part = (
        predict(model, normalize, images, batch_size=2, **how)
        for how in ({}, {"workers": 2}, {"index": np.arange(2, 6), "workers": 1})
    )
    assert torch.equal(alone.logits, helped.logits)
    assert torch.equal(alone.embedding, helped.embedding)
    assert torch.equal(alone.logits[2:6], part.logits)
