import pytest

from rsd.machine.errors import UserError
from rsd.models.make import ModelOptions, create
from tests.rsd.models.small import SHAPE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ModelOptions(name="resnet18", args={"widht": 3}), "expected arguments that timm's 'resnet18' takes"),
        (ModelOptions(name="vit_tiny_patch16_224"), "cannot take them"),
        (ModelOptions(name="crossvit_tiny_240"), r"cannot take them: .*requires \(240, 240\)"),
        (
            ModelOptions(name="deepseek_vit_412m_enc", args={"embed_dim": 48, "depth": 1, "num_heads": 2}),
            "'deepseek_vit_412m_enc', an encoder without a classifier; choose another",
        ),
    ],
)
def test_a_model_that_cannot_be_made_is_explained(options, message):
    with pytest.raises(UserError, match=message):
        create(options, classes=5, image_shape=SHAPE)


def test_an_unknown_name_is_refused_with_near_ones():
    with pytest.raises(ValueError, match="found 'resnet81'; did you mean resnet"):
        ModelOptions(name="resnet81")
