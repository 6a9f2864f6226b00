"""Where a teacher comes from: trained here, or read from a file."""

from pathlib import Path
from typing import Literal

import timm.models
from pydantic import Field, model_validator
from torch import nn

from rsd.errors import UserError
from rsd.models import ModelOptions, load_state


class TeacherOptions(ModelOptions):
    """A teacher by its timm name, and where its weights come from."""

    source: Literal["pretrain", "finetune", "hub", "file"] = "pretrain"
    """`pretrain`: trained here from random weights; `finetune`: timm's weights, from the hub or from `path`, with a
    new head, trained here; `hub`: timm's weights as they are, head and all; `file`: read from `path`."""
    path: Path | None = Field(None, strict=False)
    """For `file`: a `.safetensors` or timm-style `.pth` checkpoint of this model and these classes. For `finetune`:
    one of this model and any classes, in place of the hub's."""
    recipe: str | None = None
    """For `pretrain` and `finetune`: a name in conf/recipe."""
    seed: int = Field(0, ge=0)
    """For `pretrain` and `finetune`: seed of the new weights, the order and the views."""
    input_size: int | None = Field(None, ge=8)
    """Side in pixels to which images are resized for the teacher alone; null takes them as they are served."""
    min_top1: float = Field(0.0, ge=0, le=100)
    """Validation top-1 in per cent below which the pipeline stops."""

    @model_validator(mode="after")
    def _complete(self) -> "TeacherOptions":
        if self.source == "file" and self.path is None:
            raise ValueError("expected a path with source 'file', found none")
        if self.source == "pretrain" and self.recipe is None:
            raise ValueError("expected the name of a recipe with source 'pretrain', found none")
        return self

    @property
    def model(self) -> ModelOptions:
        return ModelOptions(name=self.name, args=self.args)


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a timm-style checkpoint; wrappers (`state_dict`, `model`, EMA) and prefixes are seen through.

    Nothing but tensors and plain values is unpickled.

    Raises:
        UserError: the file is missing, is no checkpoint, or does not fit the model.
    """
    if not path.is_file():
        raise UserError(f"expected a teacher checkpoint at {path}, found no such file; correct teacher.path")
    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, safetensors and zipfile each raise their own
        raise UserError(
            f"expected a checkpoint of tensors in {path}, found something that cannot be read safely "
            f"({str(error).splitlines()[0]}); save it again as safetensors or as a plain state dict"
        ) from error
    load_state(model, state, path=path, what="the teacher")


def check_accuracy(top1: float, options: TeacherOptions) -> None:
    """Stop a pipeline whose teacher is too weak.

    Raises:
        UserError: the validation top-1 (per cent) is below `min_top1`.
    """
    if top1 < options.min_top1:
        raise UserError(
            f"expected a teacher with at least {options.min_top1:.2f} % validation top-1, found {top1:.2f} %; "
            "train it longer, check that its classes are in the data set's order, or lower teacher.min_top1"
        )
