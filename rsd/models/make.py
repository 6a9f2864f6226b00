"""Teachers and students by timm name: made, untrained."""

import difflib
from typing import Any

import timm
import torch
from pydantic import Field, field_validator
from torch import nn

import rsd.models.mlp  # noqa: F401  timm knows its models from here on
from rsd.machine.errors import UserError
from rsd.machine.options import Options
from rsd.models.outputs import outputs


class ModelOptions(Options):
    """A model by its timm name; `args` go to `timm.create_model` as they are."""

    name: str
    args: dict[str, Any] = Field({})

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all"
            raise ValueError(f"expected the name of a timm model, found '{name}'; {hint}")
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:  # a tag, as in resnet18.a1_in1k, that is none of this model's
            tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
            raise ValueError(
                f"expected a tag that timm knows ({', '.join(tagged) or 'none'}), found '{name}'"
            ) from error
        return name


def create(options: ModelOptions, *, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Make an untrained timm model for images of `image_shape` (height, width, channels).

    Raises:
        UserError: the model does not take the arguments or the images.
    """
    height, width, channels = image_shape
    try:
        model = timm.create_model(options.name, num_classes=classes, in_chans=channels, **options.args)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(
            f"expected arguments that timm's '{options.name}' takes, found {options.args}: {error}; "
            "change `args` of this model"
        ) from error
    try:
        with torch.no_grad():
            outputs(model.eval(), torch.zeros(1, channels, height, width))
    except (ValueError, AssertionError, RuntimeError) as error:
        raise UserError(
            f"expected a model for images of {height} x {width}, found that '{options.name}' with {options.args} "
            f"cannot take them: {error}; change `args` of this model (such as img_size), data.size, or for a teacher "
            "alone teacher.input_size"
        ) from error
    return model.train()


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
