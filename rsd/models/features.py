"""The feature maps at the ends of a timm model's four stages. timm says which layers these are."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rsd.machine.errors import UserError

DEPTHS = (1 / 6, 1 / 3, 5 / 6, 1.0)
"""Where the stages of a model of equal blocks end, as shares of its depth: after 2, 4, 10 and 12 of 12 blocks."""


class Stage(NamedTuple):
    """The features at the end of a stage."""

    map: Tensor
    """`[B, C, H, W]`, also where the model itself works on tokens or channels last."""
    prefix: Tensor | None
    """Class and distillation tokens, `[B, P, C]`; None if the model has none."""


class StageShape(NamedTuple):
    """Shape of a `Stage` without its batch."""

    channels: int
    height: int
    width: int
    prefix_tokens: int
    tokens: bool
    """True for transformers and MLPs, which work on tokens or channels last; False for `[B, C, H, W]`."""


class StagedOutputs(NamedTuple):
    """`rsd.models.outputs.Outputs`, and the four stages, shallowest first."""

    embedding: Tensor
    logits: Tensor
    stages: tuple[Stage, ...]


_REFUSALS = (TypeError, AttributeError, AssertionError, LookupError, NotImplementedError, ValueError)
"""What timm's models raise that cannot be taken apart. A plain RuntimeError is none: memory or a device failed."""


def staged_outputs(model: nn.Module, inputs: Tensor) -> StagedOutputs:
    """One forward pass that keeps the four stages: inputs `[B, C, H, W]`.

    The last stage is the output of `forward_features`, which the head reads. (In MobileNetV2 it has 1280 channels,
    the last block only 320.) A stem that halves the image is not a stage.

    `stage_shapes` says in a sentence why a model cannot be taken apart: call it first, once.
    """
    levels = _levels(model)
    prefix_tokens = int(getattr(model, "num_prefix_tokens", 0))
    options = {"return_prefix_tokens": True} if prefix_tokens else {}
    final, between = model.forward_intermediates(inputs, indices=sorted(set(levels)), **options)  # type: ignore[operator]
    maps = (Stage(*level) if prefix_tokens else Stage(level, None) for level in between)
    stage_at = dict(zip(sorted(set(levels)), maps, strict=True))
    stages = tuple(stage_at[level] for level in levels[:-1])
    last = _as_stage(model, final, like=stage_at[levels[-1]], prefix_tokens=prefix_tokens)
    embedding = model.forward_head(final, pre_logits=True)  # type: ignore[operator]
    return StagedOutputs(embedding, model.forward_head(final), (*stages, last))  # type: ignore[operator]


@torch.no_grad()
def stage_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[StageShape, ...]:
    """The four stages' shapes for images (height, width, channels); UserError if timm cannot take the model apart."""
    height, width, channels = image_shape
    parameter = next(model.parameters())
    was_training = model.training
    zeros = torch.zeros(1, channels, height, width, device=parameter.device, dtype=parameter.dtype)
    model.eval()
    try:
        stages = staged_outputs(model, zeros).stages
    except _REFUSALS as error:
        raise _cannot(model, str(error)) from error
    final = model.forward_features(zeros)  # type: ignore[operator]
    model.train(was_training)
    tokens = final.ndim == 3 or _channels_last(model)
    return tuple(
        StageShape(channels, height, width, 0 if stage.prefix is None else stage.prefix.shape[1], tokens)
        for stage in stages
        for channels, height, width in [stage.map.shape[1:]]
    )


def _levels(model: nn.Module) -> list[int]:
    """The numbers of timm's intermediates that end the four stages."""
    if not hasattr(model, "forward_intermediates"):
        raise _cannot(model, "it has no forward_intermediates")
    info = getattr(model, "feature_info", None) or []
    if info and len({level["reduction"] for level in info}) == 1:
        return [max(round(len(info) * depth), 1) - 1 for depth in DEPTHS]
    if len(info) < len(DEPTHS):
        raise _cannot(model, f"it has {len(info)} levels of resolution")
    return list(range(len(info) - len(DEPTHS), len(info)))


def _as_stage(model: nn.Module, final: Any, *, like: Stage, prefix_tokens: int) -> Stage:
    """The output of `forward_features` as a map; tokens `[B, P + H W, C]` are laid out on the grid of `like`."""
    if not isinstance(final, Tensor):
        raise _cannot(model, f"its features are a {type(final).__name__} of several maps, not one")
    if final.ndim == 4:
        return Stage(final.permute(0, 3, 1, 2) if _channels_last(model) else final, None)
    height, width = like.map.shape[2:]
    if final.ndim != 3 or final.shape[1] != prefix_tokens + height * width:
        raise _cannot(model, f"its features {list(final.shape)} do not fill a grid of {height} x {width}")
    prefix, patches = final.split([prefix_tokens, height * width], dim=1)
    return Stage(patches.mT.unflatten(2, (height, width)), prefix if prefix_tokens else None)


def _channels_last(model: nn.Module) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


def _cannot(model: nn.Module, why: str) -> UserError:
    return UserError(
        f"expected a model that timm can take apart into four stages, found {type(model).__name__}, which it cannot "
        f"({why}); choose another model, or a method that needs no stage features (such as rsd)"
    )
