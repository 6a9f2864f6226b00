import pytest
import torch

from rsd.models.make import create
from rsd.models.outputs import embedding_width, outputs
from tests.rsd.models.small import FAMILIES, SHAPE


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_models_own_logits_and_embedding(family):
    model = create(FAMILIES[family], classes=5, image_shape=SHAPE).eval()
    images = torch.randn(3, 1, 16, 16)
    batch = outputs(model, images)
    assert torch.equal(batch.logits, model(images))
    assert batch.embedding.shape == (3, embedding_width(model))
