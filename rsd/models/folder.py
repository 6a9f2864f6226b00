"""Trained models in folders: weights and record, saved and loaded."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.machine.files import read_json, written_aside
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import PixelNormalize


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
        folder: holds `{kind}.json` and `model.safetensors`, as `teacher` and `distill` write them.
        kind: `"model"` for a teacher, `"student"` for a student.
    """
    record = read_json(folder / f"{kind}.json")
    model = create(
        ModelOptions.model_validate(record["model"]),
        classes=len(record["classes"]),
        image_shape=input_shape(record),
    )
    load_weights(model, folder / "model.safetensors", what=str(folder))
    return model.eval(), record


def normalizer(record: dict[str, Any]) -> PixelNormalize:
    """What makes the input of the model that `record` describes out of raw pixels, whatever other models take."""
    return PixelNormalize(record["mean"], record["std"], size=record.get("input_size"))


def input_shape(record: dict[str, Any]) -> tuple[int, int, int]:
    """Height, width and channels of what `normalizer(record)` makes."""
    size = record.get("input_size")
    return size or record["height"], size or record["width"], len(record["mean"])
