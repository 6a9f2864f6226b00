"""Weights as timm loads them, from its hub or from a file."""

import hashlib
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from rsd.machine.errors import UserError, first_line
from rsd.machine.files import sha256
from rsd.models.checkpoint_file import head_classes, head_names, read_state
from rsd.models.folder import misfits
from rsd.models.make import ModelOptions
from rsd.models.weights import in_place_of_the_network

CLIP_PROJECTION = "visual.proj"
"""Of an image tower in OpenAI's or OpenCLIP's format, into the space that it shares with texts. timm would make it the
head."""


def check_on_hub(name: str, option: str) -> None:
    """Refuse a model without the weights on timm's hub that `option` asks for; for validators."""
    cfg = timm.get_pretrained_cfg(name)
    if not (cfg and cfg.has_weights):
        raise ValueError(
            f"expected a model with weights on timm's hub with {option}, found that '{name}' has none; "
            "timm.list_pretrained() names those that have"
        )


def adopt_weights(
    model: nn.Module,
    options: ModelOptions,
    file: Path | None = None,
    *,
    channels: int,
    role: str,
    new_head: bool = False,
) -> tuple[str, bool]:
    """Give `model`, which `options` made, timm's weights; where the head has another shape, the model's own stays.

    timm adapts the weights to another number of channels.

    Args:
        file: weights in place of the hub's.
        role: `teacher` or `student`, for the sentences.
        new_head: keep the model's own head in any case.

    Returns:
        SHA-256 of their file, or of the hub's tensors; and whether the model kept its own head.

    Raises:
        UserError: the weights are missing, cannot be read safely or fetched, or do not fit the model.
    """
    loaded = _loaded(model, options, file, channels=channels, role=role)
    digest = sha256(file) if file else _digest(loaded.state_dict())
    own, state = model.state_dict(), loaded.state_dict()
    kept = [name for name in head_names(model) if new_head or name not in state or state[name].shape != own[name].shape]
    model.load_state_dict(state | {name: own[name] for name in kept})
    return digest, bool(kept)


def _loaded(model: nn.Module, options: ModelOptions, file: Path | None, *, channels: int, role: str) -> nn.Module:
    """The model as timm loads it, with the head of its weights, from the hub or from `file`.

    timm knows how weights of older formats, another input size or other channels become this model's. With the
    weights' own number of classes it loads strictly: nothing is left at random.
    """
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    if file is None:
        state: dict[str, Tensor] = {}
        overlay: dict[str, Any] = {}
        classes = cfg["num_classes"]
    else:
        state = read_state(file)
        state.pop(CLIP_PROJECTION, None)
        classes = head_classes(state, head_names(model))
        stem = _stem(model, cfg)
        # The default cfg's offset and channels describe the hub's file, not this one.
        overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0, "first_conv": stem}
        weight = f"{stem}.weight"
        if weight in state and state[weight].shape == model.state_dict()[weight].shape:
            overlay["input_size"] = (channels, *cfg["input_size"][1:])
    try:
        return timm.create_model(
            options.name,
            pretrained=True,
            num_classes=classes,
            in_chans=channels,
            pretrained_cfg_overlay=overlay,
            **options.args,
        )
    except Exception as error:  # whatever timm, the hub's client or the network raise
        if file is not None:
            fault = misfits(model.state_dict(), state, without=head_names(model)) or first_line(error)
            raise UserError(
                f"the weights in {file} do not fit the {role} '{options.name}' with {options.args}: {fault}; "
                "give weights of this model, or change its name and args"
            ) from error
        if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
            faults = " ".join(str(error).split())
            raise UserError(
                f"expected {role}.args that leave the hub's weights of '{options.name}' fitting, found "
                f"{options.args}: {faults[:300]}; change {role}.args"
            ) from error
        raise UserError(
            f"expected the weights of '{options.name}' on the hub or in its cache, found that they cannot be had "
            f"({first_line(error)}); {in_place_of_the_network(role)}"
        ) from error


def _stem(model: nn.Module, cfg: dict[str, Any]) -> str | None:
    """The convolution that reads the channels: the cfg's, or the first where `args` have made another stem."""
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    named = cfg.get("first_conv")
    return named if named in convolutions else next(iter(convolutions), None)


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
