"""Stage features of a timm model, found at run time: no table of architectures, no shapes written by hand."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rsd.machine.errors import UserError

DEPTHS = (1 / 6, 1 / 3, 5 / 6, 1.0)
"""Where the stages of a model of equal blocks end: of 12, after 2, 4, 10 and 12."""


class Stage(NamedTuple):
    """The features at the end of a stage."""

    map: Tensor
    """`[B, C, H, W]`, whatever the model's own layout."""
    prefix: Tensor | None
    """Class tokens and their like, `[B, P, C]`; None where the model has none."""


class StageShape(NamedTuple):
    """Shape of a `Stage` without its batch."""

    channels: int
    height: int
    width: int
    prefix_tokens: int
    tokens: bool
    """Whether the model works on tokens or channels-last maps, as transformers and MLPs do, not on `[B, C, H, W]`."""


class StagedOutputs(NamedTuple):
    """`rsd.models.outputs.Outputs` and what lies before it: the four stages, shallowest first."""

    embedding: Tensor
    logits: Tensor
    stages: tuple[Stage, ...]


def staged_outputs(model: nn.Module, inputs: Tensor) -> StagedOutputs:
    """One forward pass that keeps the four stages: inputs `[B, C, H, W]`.

    The last stage is the output of `forward_features`, which the model's head reads (1280 channels in
    MobileNetV2, whose last block has 320); a stem that only halves the image is no stage.

    Raises:
        UserError: timm cannot take the model apart into four stages.
    """
    levels = _levels(model)
    prefix_tokens = int(getattr(model, "num_prefix_tokens", 0))
    options = {"return_prefix_tokens": True} if prefix_tokens else {}
    try:
        final, between = model.forward_intermediates(inputs, indices=sorted(set(levels)), **options)  # type: ignore[operator]
    except (TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise _cannot(model, str(error)) from error
    found = dict(
        zip(sorted(set(levels)), (Stage(*m) if prefix_tokens else Stage(m, None) for m in between), strict=True)
    )
    stages = tuple(found[level] for level in levels[:-1])
    last = _as_stage(model, final, like=found[levels[-1]], prefix_tokens=prefix_tokens)
    embedding = model.forward_head(final, pre_logits=True)  # type: ignore[operator]
    return StagedOutputs(embedding, model.forward_head(final), (*stages, last))  # type: ignore[operator]


@torch.no_grad()
def stage_shapes(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[StageShape, ...]:
    """Shapes of the four stages for images of `image_shape` (height, width, channels), from a run on zeros.

    Raises:
        UserError: timm cannot take the model apart into four stages.
    """
    height, width, channels = image_shape
    parameter = next(model.parameters())
    was_training = model.training
    zeros = torch.zeros(1, channels, height, width, device=parameter.device, dtype=parameter.dtype)
    model.eval()
    stages = staged_outputs(model, zeros).stages
    final = model.forward_features(zeros)  # type: ignore[operator]
    model.train(was_training)
    tokens = final.ndim == 3 or _channels_last(model)
    return tuple(
        StageShape(channels, height, width, 0 if stage.prefix is None else stage.prefix.shape[1], tokens)
        for stage in stages
        for channels, height, width in [stage.map.shape[1:]]
    )


def _levels(model: nn.Module) -> list[int]:
    """Which of timm's intermediates end the four stages."""
    if not hasattr(model, "forward_intermediates"):
        raise _cannot(model, "it has no forward_intermediates")
    info = getattr(model, "feature_info", None) or []
    if info and len({level["reduction"] for level in info}) == 1:
        return [max(round(len(info) * depth), 1) - 1 for depth in DEPTHS]
    if len(info) < len(DEPTHS):
        raise _cannot(model, f"it has {len(info)} levels of resolution")
    return list(range(len(info) - len(DEPTHS), len(info)))


def _as_stage(model: nn.Module, final: Tensor, *, like: Stage, prefix_tokens: int) -> Stage:
    """The output of `forward_features` as a map; tokens `[B, P + H W, C]` lie on the grid of `like`."""
    if final.ndim == 4:
        return Stage(final.permute(0, 3, 1, 2) if _channels_last(model) else final, None)
    height, width = like.map.shape[2:]
    if final.ndim != 3 or final.shape[1] != prefix_tokens + height * width:
        raise _cannot(model, f"its features {list(final.shape)} do not lie on a grid of {height} x {width}")
    prefix, patches = final.split([prefix_tokens, height * width], dim=1)
    return Stage(patches.mT.unflatten(2, (height, width)), prefix if prefix_tokens else None)


def _channels_last(model: nn.Module) -> bool:
    return getattr(model, "output_fmt", "NCHW") == "NHWC"


def _cannot(model: nn.Module, why: str) -> UserError:
    return UserError(
        f"expected a model that timm can take apart into four stages, found that it cannot with "
        f"{type(model).__name__} ({why}); choose another model, or a method that needs no stage features (such as rsd)"
    )
