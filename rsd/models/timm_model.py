"""Teachers and students by timm name: made, fed with raw pixels, saved and loaded."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from pydantic import Field, field_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

import rsd.models.mlp  # noqa: F401  its models are timm's from here on
from rsd.machine.errors import UserError
from rsd.machine.files import read_json, written_aside
from rsd.machine.options import Options
from rsd.sources.images import Images
from rsd.views.workers import in_order


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


class Outputs(NamedTuple):
    """What a model says of a batch: penultimate embedding `[B, D]` and logits `[B, classes]`."""

    embedding: Tensor
    logits: Tensor


class PixelNormalize(nn.Module):
    """Raw pixels to model input: uint8 `[N, H, W, C]` -> standardised float32 `[N, C, H, W]`.

    Training, evaluation and the exported graph share this module, so they cannot drift apart.

    Args:
        mean, std: per channel, of pixels in [0, 1].
        size: side to which images of another size are resized first, `[N, C, size, size]` comes out; bicubic with
            antialiasing, as timm prepares images, without rounding to 8 bits. None takes images as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, size: int | None = None) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        # The cast comes first: TensorRT refuses every other operation on uint8.
        pixels = image.float() / 255.0
        if self.size is not None and pixels.shape[1:3] != (self.size, self.size):
            planes = pixels.permute(0, 3, 1, 2)
            resized = nn.functional.interpolate(planes, (self.size, self.size), mode="bicubic", antialias=True)
            pixels = resized.clamp(0, 1).permute(0, 2, 3, 1)  # bicubic weights overshoot at edges
        return ((pixels - self.mean) / self.std).permute(0, 3, 1, 2)


class RawPixels(nn.Module):
    """A model with its normalisation inside: uint8 `[N, H, W, C]` -> float32 logits `[N, classes]`."""

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalize = PixelNormalize(mean, std)
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(self.normalize(image)).float()


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


def outputs(model: nn.Module, inputs: Tensor) -> Outputs:
    """One forward pass that keeps the penultimate embedding: inputs `[B, C, H, W]` -> `Outputs`."""
    features = model.forward_features(inputs)  # type: ignore[operator]
    embedding = model.forward_head(features, pre_logits=True)  # type: ignore[operator]
    return Outputs(embedding, model.forward_head(features))  # type: ignore[operator]


def embedding_width(model: nn.Module) -> int:
    """Width of the penultimate embedding, which timm calls `head_hidden_size`."""
    return int(model.head_hidden_size)  # type: ignore[arg-type]


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def save_weights(state: dict[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    with written_aside(path) as aside:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, aside, metadata)


def load_weights(model: nn.Module, path: Path, *, what: str) -> None:
    """Load a safetensors file into `model`, strictly.

    Raises:
        UserError: the file is missing, is not safetensors, or does not fit the model; `what` names
            the model in the sentence.
    """
    if not path.is_file():
        raise UserError(f"expected the weights of {what} at {path}, found no such file; check the path")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own type, which it does not export
        raise UserError(f"expected a safetensors file at {path}, found something else ({error})") from error
    load_state(model, state, path=path, what=what)


def load_state(model: nn.Module, state: dict[str, Tensor], *, path: Path, what: str) -> None:
    """Load `state` into `model`; every name and shape must fit, or a `UserError` says which do not."""
    if faults := misfits(model.state_dict(), state):
        raise UserError(
            f"the weights in {path} do not fit {what}: {faults}; "
            "give weights of this model and number of classes, or change the model's name and args"
        )
    model.load_state_dict(state)


def misfits(own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What of `state` does not fit a model whose state dict is `own`, in words; empty if all fits."""
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


def load_trained(folder: Path, kind: str) -> tuple[nn.Module, dict[str, Any]]:
    """A trained model, in eval mode, and its record.

    Args:
        folder: holds `{kind}.json` and `{kind}.safetensors`, as `teacher` and `distill` write them.
        kind: `"model"` for a teacher, `"student"` for a student.
    """
    record = read_json(folder / f"{kind}.json")
    model = create(
        ModelOptions.model_validate(record["model"]),
        classes=len(record["classes"]),
        image_shape=input_shape(record),
    )
    load_weights(model, folder / f"{kind}.safetensors", what=str(folder))
    return model.eval(), record


def normalizer(record: dict[str, Any]) -> PixelNormalize:
    """What makes the input of the model that `record` describes out of raw pixels, whatever other models take."""
    return PixelNormalize(record["mean"], record["std"], size=record.get("input_size"))


def input_shape(record: dict[str, Any]) -> tuple[int, int, int]:
    """Height, width and channels of what `normalizer(record)` makes."""
    size = record.get("input_size")
    return size or record["height"], size or record["width"], len(record["mean"])


class _Raw(Dataset[Tensor]):
    """Raw images in batches, uint8 `[B, H, W, C]`."""

    def __init__(self, images: Images, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, number: int) -> Tensor:
        start = number * self.batch_size
        return torch.from_numpy(np.array(self.images[start : start + self.batch_size]))  # a copy: a map is read-only


@torch.no_grad()
def predict(
    model: nn.Module,
    normalize: PixelNormalize,
    images: Images,
    *,
    batch_size: int,
    workers: int = 0,
    numbers: range | None = None,
) -> Outputs:
    """Embeddings and logits of a model in eval mode, float32 on the CPU, for raw images `[N, H, W, C]`.

    Runs where `normalize` lives; the model's training mode is restored.

    Args:
        workers: processes that read and decode the images; they do not change a pixel.
        numbers: which batches, at least one; all if None.
    """
    was_training = model.training
    model.eval()
    parts = []
    batches = _Raw(images, batch_size)
    for raw in in_order(batches, range(len(batches)) if numbers is None else numbers, workers=workers):
        told = outputs(model, normalize(raw.to(normalize.mean.device)))
        parts.append(Outputs(*(part.float().cpu() for part in told)))
    model.train(was_training)
    return Outputs(*(torch.cat(column) for column in zip(*parts, strict=True)))
