"""Weights in a file, as they are found in the wild: read safely, and held to the model."""

from pathlib import Path

import timm.models
from torch import Tensor, nn

from rsd.machine.errors import UserError, first_line
from rsd.models.folder import load_state, misfits
from rsd.sources.listing import weights_file


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a timm-style checkpoint; wrappers (`state_dict`, `model`, EMA) and prefixes are removed.

    Nothing but tensors and plain values is unpickled.

    Raises:
        UserError: the file is missing, is no checkpoint, or does not fit the model.
    """
    state, own = read_state(path), model.state_dict()
    head = head_names(model)
    expected, classes = (head_classes(tensors, head) for tensors in (own, state))
    if classes != expected and not misfits(own, state, without=head):
        raise UserError(
            f"expected a head for {expected} classes, as the data has, in {path}, found "
            f"{f'one for {classes}' if classes else 'none'}; "
            "give a checkpoint of these classes, or train a new head with teacher.source finetune"
        )
    load_state(model, state, path=path, what="the teacher")


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a timm-style checkpoint, without wrappers and prefixes; UserError if it is not read safely."""
    try:
        state = timm.models.load_state_dict(str(weights_file(path)), weights_only=True)
        if not (state and all(isinstance(tensor, Tensor) for tensor in state.values())):
            raise TypeError("it holds other things than named tensors")
    except UserError:
        raise
    except Exception as error:  # torch, safetensors and zipfile each raise their own
        raise UserError(
            f"expected a checkpoint of tensors in {path}, found something that cannot be read safely "
            f"({first_line(error)}); save it again as safetensors or as a plain state dict"
        ) from error
    return state


def head_names(model: nn.Module) -> list[str]:
    """Names in the state dict of a timm model's classifier, or classifiers."""
    classifier = model.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple | list) else (classifier,)
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is head for head in heads))
    return [name for name in model.state_dict() if name.startswith(prefixes)] if prefixes else []


def head_classes(state: dict[str, Tensor], head: list[str]) -> int:
    """Classes of the head in `state`: the outputs of its last layer, 0 without a head."""
    present = [name for name in head if name in state]
    return len(state[present[-1]]) if present and state[present[-1]].ndim else 0
