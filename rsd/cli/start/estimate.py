"""How long a run will take on this machine: a few real steps, multiplied."""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rsd.machine.compute import ComputeOptions, set_up
from rsd.methods.scratch import ScratchDistiller
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.training.recipe import Recipe, make_criterion
from rsd.training.stepper import Stepper
from rsd.views.augment import views

ANSWERED = 8  # images that the teacher is timed on together
TIMED = 2  # steps that are timed, after one that is not


class Part(NamedTuple):
    """A part of a run, and how long it takes."""

    name: str
    seconds: float


def step_seconds(images: LabelledImages, model: nn.Module, recipe: Recipe, compute: ComputeOptions) -> float:
    """Seconds of a training step of `model`, with its batch. The model's weights change."""
    task = ScratchDistiller(model.train(), criterion=make_criterion(recipe)).to(device := set_up(compute))
    normalize = _normalize(images, None).to(device)
    stepper = Stepper(task, recipe, compute, normalize=normalize, teacher=None, steps_per_epoch=TIMED + 1)

    def step(number: int) -> None:
        raw, index = _batch(images, recipe, recipe.batch_size, number)
        target = torch.from_numpy(images.labels[index].clip(0))
        stepper.step(raw, target, index, np.full(len(index), number), number=number)

    return _seconds(step)


def answer_seconds(
    images: LabelledImages, model: nn.Module, recipe: Recipe, compute: ComputeOptions, side: int | None
) -> float:
    """Seconds of a teacher's answer for one view, resized to `side` for it; None: as images are served."""
    model = model.eval().to(device := set_up(compute))
    normalize = _normalize(images, side).to(device)

    @torch.no_grad()
    def answer(number: int) -> None:
        raw, _ = _batch(images, recipe, ANSWERED, number)
        model(normalize(raw.to(device)))

    return _seconds(answer) / ANSWERED


def _normalize(images: LabelledImages, side: int | None) -> PixelNormalize:
    channels = images.images.shape[3]
    return PixelNormalize([0.5] * channels, [0.25] * channels, size=side)


def _batch(images: LabelledImages, recipe: Recipe, count: int, view: int) -> tuple[Tensor, np.ndarray]:
    index = np.random.default_rng(view).permutation(len(images.labels))[:count]
    return torch.from_numpy(views(images.images, index, recipe.augment, seed=0, view=view)), index


def _seconds(work: Callable[[int], None]) -> float:
    """Mean seconds of a call of `work`, after a first one."""
    work(0)
    start = perf_counter()
    for number in range(1, TIMED + 1):
        work(number)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (perf_counter() - start) / TIMED


def in_words(seconds: float) -> str:
    """A duration, as exact as an estimate deserves."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
