"""Trained models in folders of timm's and the Hugging Face hub's format: `model.safetensors` and `config.json`.

`timm.create_model("local-dir:FOLDER", pretrained=True)` makes the model of such a folder.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeVar

import timm
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models._hub import load_model_config_from_path, save_config_for_hf
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.machine.faults import first_fault
from rsd.machine.files import written_aside
from rsd.models.make import ModelName, ModelOptions, create
from rsd.models.pixels import PixelNormalize, per_channel
from rsd.run.names import CONFIG, WEIGHTS
from rsd.sources.images import DatasetRecord

OTHERS_WEIGHTS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")
"""timm's facts about its own weights for an architecture. The folder holds other weights."""


def save_weights(state: dict[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as safetensors, whole or not at all; OSError if there is no room or it cannot be written."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with written_aside(path) as aside:
        try:
            save_file(tensors, aside, metadata)
        except SafetensorError as error:
            if "I/O error" not in str(error):
                raise
            raise OSError(f"{path}: {str(error).partition('I/O error: ')[2]}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into `model`, strictly; UserError where it is missing, damaged or does not fit."""
    if not path.is_file():
        raise UserError(f"expected weights at {path}, found no such file; check the path")
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"expected a safetensors file at {path}, found something else ({error})") from error
    load_state(model, state, path=path, what="the model")


def load_state(model: nn.Module, state: dict[str, Tensor], *, path: Path, what: str) -> None:
    """Load `state`, which was read from `path`, into the model, strictly; UserError names what does not fit `what`."""
    if faults := misfits(model.state_dict(), state):
        raise UserError(
            f"the weights in {path} do not fit {what}: {faults}; "
            "give weights of this model and number of classes, or change the model's name and args"
        )
    model.load_state_dict(state)


def misfits(own: dict[str, Tensor], state: dict[str, Tensor], *, without: Collection[str] = ()) -> str:
    """The names and shapes of `state` that differ from `own`, in words; empty if none does but those `without`."""
    own, state = ({name: part[name] for name in part if name not in without} for part in (own, state))
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    reshaped = [
        f"{name} is {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    return "; ".join(
        f"{len(names)} {fault} (first: {names[0]})"
        for fault, names in (("missing", missing), ("unknown", extra), ("of another shape", reshaped))
        if names
    )


_Side = Annotated[int, Field(ge=1, le=1 << 14)]


class Pixels(BaseModel):
    """What timm's description of weights says of their input, and of their classes."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    label_names: list[str] | None = None
    """The classes, in the order of the head."""
    input_size: tuple[Annotated[int, Field(ge=1, le=64)], _Side, _Side] | None = None
    """Channels, height, width."""
    mean: list[float]
    """Per channel, of pixels in [0, 1], as is `std`."""
    std: list[Annotated[float, Field(gt=0)]]
    interpolation: str = "bicubic"
    """How images of another size become the model's."""
    crop_mode: str = "center"
    """`center` takes the central square of an image, `squash` the whole image."""
    crop_pct: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Side of that square, as a share of the shorter side; timm pads beyond 1."""
    license: str | None = None
    """Of the weights; None: not stated."""

    @field_validator("label_names", mode="before")
    @classmethod
    def _in_order(cls, names: Any) -> Any:
        """timm also writes the names by class number."""
        return [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if not len(self.mean) == len(self.std) > 0:
            raise ValueError(f"expected as many values in mean as in std, found {len(self.mean)} and {len(self.std)}")
        return self


class ModelConfig(Pixels):
    """What `config.json` says of a model and of its input, as timm reads it."""

    architecture: ModelName
    model_args: dict[str, JsonValue]
    num_classes: int = Field(ge=1)
    input_size: tuple[Annotated[int, Field(ge=1, le=64)], _Side, _Side]

    @model_validator(mode="after")
    def _by_channel(self) -> Self:
        self.mean, self.std = (per_channel(values, self.input_size[0]) for values in (self.mean, self.std))
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return *self.input_size[1:], self.input_size[0]

    @property
    def options(self) -> ModelOptions:
        """The model; the numbers of classes and channels are not among its arguments."""
        args = {key: value for key, value in self.model_args.items() if key not in ("num_classes", "in_chans")}
        return ModelOptions(name=self.architecture, args=args)


class LoadedModel(NamedTuple):
    """A trained model in eval mode, and the module that makes its input from raw pixels."""

    model: nn.Module
    normalize: PixelNormalize
    config: ModelConfig


def save_trained(
    folder: Path,
    model: nn.Module,
    weights: dict[str, Tensor],
    data: DatasetRecord,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: int | None = None,
    interpolation: str = "bicubic",
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the weights of a timm model, and the `config.json` that says how to make the model and its input.

    Args:
        mean, std: per channel, of pixels in [0, 1].
        input_size: side to which the data's images are resized for this model; None takes them as they are served.
        interpolation: how they are resized to that side.
        metadata: texts for the file of weights.
    """
    save_weights(weights, folder / WEIGHTS, metadata=metadata)
    crop, resize = data.preprocessing.crop_share, data.preprocessing.resize
    pixels = {
        "input_size": (data.channels, input_size or data.height, input_size or data.width),
        "mean": tuple(mean),
        "std": tuple(std),
        "interpolation": interpolation if input_size else resize,
        "crop_pct": crop or 1.0,
        "crop_mode": "center" if crop else "squash",  # a file gives its central square, an array all of it
    }
    with written_aside(folder / CONFIG) as aside:
        save_config_for_hf(model, str(aside), model_config={"label_names": data.classes}, data_config=pixels)
        config = json.loads(aside.read_text())
        for key in OTHERS_WEIGHTS:
            config["pretrained_cfg"].pop(key, None)
        aside.write_text(json.dumps(config, indent=2) + "\n")


def load_trained(folder: Path) -> LoadedModel:
    """Make the model of a folder and load its weights, strictly; UserError where a file is missing or does not fit."""
    config = read_config(folder, ModelConfig)
    model = create(config.options, classes=config.num_classes, image_shape=config.image_shape)
    load_weights(model, folder / WEIGHTS)
    size = config.image_shape[:2]
    normalize = PixelNormalize(config.mean, config.std, size=size, interpolation=config.interpolation)
    return LoadedModel(model.eval(), normalize, config)


Config = TypeVar("Config", bound=Pixels)


def read_config(folder: Path, kind: type[Config]) -> Config:
    """A folder's `config.json`, or a UserError. What it does not say of pixels is timm's default for the model."""
    try:
        stated, architecture, args = load_model_config_from_path(folder)
        stated = _default_pixels(architecture, stated) | stated | {"architecture": architecture, "model_args": args}
        return kind.model_validate(stated)
    except FileNotFoundError as error:
        raise UserError(
            f"expected {CONFIG} in {folder}, found none; give a folder that rsd or timm.models.save_for_hf wrote"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"expected timm's description of a model in {folder / CONFIG}, found {fault}; correct it, or write the "
            "folder anew with timm.models.save_for_hf"
        ) from error


def _default_pixels(name: str, stated: dict[str, Any]) -> dict[str, Any]:
    """timm's default for what `stated` does not say; mean and std belong together."""
    default = timm.get_pretrained_cfg(name)
    keys = {"interpolation", "crop_pct", "crop_mode"} | (
        {"mean", "std"} if stated.keys().isdisjoint({"mean", "std"}) else set()
    )
    return {key: value for key, value in (default.to_dict() if default else {}).items() if key in keys}
