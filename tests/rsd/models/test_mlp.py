"""MLPs of any size, made of timm's own parts."""

from typing import Any

import pytest
import timm
import torch

from rsd.machine.errors import UserError
from rsd.models.features import stage_shapes
from rsd.models.make import ModelOptions, create

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "resmlp": ("resmlp_12_224", {"patch_size": 16, "num_blocks": 12, "embed_dim": 384}),
    "mlp_mixer": ("mixer_s16_224", {"patch_size": 16, "num_blocks": 8, "embed_dim": 512}),
}


@pytest.mark.parametrize("name", NAMED)
def test_timms_sizes_give_timms_models(name: str) -> None:
    theirs, args = NAMED[name]
    with torch.device("meta"):
        ours, named = timm.create_model(name, **args), timm.create_model(theirs)

    assert str(ours) == str(named)
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == {
        key: tensor.shape for key, tensor in named.state_dict().items()
    }


@pytest.mark.parametrize("name", NAMED)
def test_a_small_one_has_four_stages(name: str) -> None:
    args = {"img_size": 16, "patch_size": 4, "num_blocks": 4, "embed_dim": 8}
    model = create(ModelOptions(name=name, args=args), classes=3, image_shape=(16, 16, 1))

    shapes = stage_shapes(model, (16, 16, 1))

    assert [(shape.channels, shape.height, shape.width) for shape in shapes] == [(8, 4, 4)] * 4


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(UserError, match="expected arguments that timm's 'resmlp' takes, found {'embed': 8}"):
        create(ModelOptions(name="resmlp", args={"embed": 8}), classes=3, image_shape=(16, 16, 1))
