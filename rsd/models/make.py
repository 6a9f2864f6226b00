"""Making untrained teachers and students by their timm names."""

import difflib
from typing import Annotated, Any

import timm
import torch
from pydantic import AfterValidator, Field
from timm.data import resolve_input_data_config
from torch import nn

import rsd.models.mlp  # noqa: F401  registers its models with timm
from rsd.machine.errors import UserError, first_line
from rsd.machine.options import Options
from rsd.models.outputs import outputs


def _known(name: str) -> str:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all"
        raise ValueError(f"expected the name of a timm model, found '{name}'; {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the model has no such tag (resnet18.a1_in1k has the tag a1_in1k)
        tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ValueError(f"expected a tag that timm knows ({', '.join(tagged) or 'none'}), found '{name}'") from error
    return name


ModelName = Annotated[str, AfterValidator(_known)]  # a timm name, with or without a tag


class ModelOptions(Options):
    """A model by its timm name; `args` go to `timm.create_model` as they are."""

    name: ModelName
    args: dict[str, Any] = Field({})

    @property
    def model(self) -> "ModelOptions":
        """Without what a section of the params says beside."""
        return ModelOptions(name=self.name, args=self.args)


def create(options: ModelOptions, *, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """An untrained timm model for images (height, width, channels); UserError if they or the arguments do not fit."""
    height, width, channels = image_shape
    try:
        model = timm.create_model(options.name, num_classes=classes, in_chans=channels, **options.args)
    except Exception as error:  # of whatever class the model's code stumbles over
        raise UserError(
            f"expected arguments that timm's '{options.name}' takes, found {options.args}: {error}; "
            "change `args` of this model"
        ) from error
    if model.num_classes != classes:
        raise UserError(
            f"expected a model that classifies, found '{options.name}', an encoder without a classifier; "
            "choose another model"
        )
    try:
        pixels = {"input_size": (channels, height, width), "mean": 0.5, "std": 0.5}
        resolve_input_data_config(model, args=pixels)  # refuses a size that would be scaled in silence, as by CrossViT
        with torch.no_grad():
            outputs(model.eval(), torch.zeros(1, channels, height, width))
    except Exception as error:
        raise UserError(
            f"expected a model for images of {height} x {width}, found '{options.name}' with {options.args}, which "
            f"cannot take them: {first_line(error)}; change `args` of this model (such as img_size), data.size, or for "
            "a teacher alone teacher.input_size"
        ) from error
    return model.train()


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
