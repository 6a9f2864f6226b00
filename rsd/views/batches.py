"""Which views are in which batch, as a pure function of seed and epoch, and how batches are served."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rsd.machine.errors import UserError
from rsd.sources.images import LabelledImages
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.mix import mixed_views, partners
from rsd.views.workers import in_order


class Batch(NamedTuple):
    """The input of one training step."""

    raw: Tensor
    """Views, uint8 `[B, H, W, C]`."""
    target: Tensor
    """Class indices int64 `[B]`, or class probabilities float32 `[B, classes]`."""
    images: np.ndarray
    """Which images, int64 `[B]`."""
    views: np.ndarray
    """Which views of them, int64 `[B]`."""


class EpochPlan(NamedTuple):
    """Images and views of each batch, int64 `[B]` each."""

    images: Sequence[np.ndarray]
    views: Sequence[np.ndarray]


def batch_count(images: int, batch_size: int) -> int:
    """Full batches per epoch; the rest is dropped, so that a correlation is always over a whole batch.

    Raises:
        UserError: there are fewer images than one batch.
    """
    if images < batch_size:
        raise UserError(
            f"expected at least one batch of {batch_size} training images, found {images}; "
            "lower recipe.batch_size or give more images"
        )
    return images // batch_size


def epoch_plan(
    epoch: int, images: int, batch_size: int, augment: AugmentOptions, *, seed: int, view_choice: ViewChoice
) -> EpochPlan:
    """An epoch's batches, shuffled by (seed, epoch); partners that are mixed stay side by side."""
    count = batch_count(images, batch_size)
    repeats = augment.repeats
    number = [view_choice.number(epoch, repeats, repeat) for repeat in range(repeats)]
    order = np.random.default_rng([seed, epoch]).permutation(images)
    if augment.mixes:
        order = _paired(order, partners(images, seed=view_choice.seed, pairing=number[0] // repeats))
    units = order[: images // 2 * 2].reshape(-1, 2) if augment.mixes else order[:, None]
    index = np.repeat(units[:, None], repeats, axis=1)
    view = np.broadcast_to(np.array(number)[None, :, None], index.shape)
    images_of_batches, numbers = (np.resize(values, (count, batch_size)) for values in (index, view))
    return EpochPlan(list(images_of_batches), list(numbers))


def store_plan(view: int, images: int, batch_size: int, augment: AugmentOptions, *, seed: int) -> EpochPlan:
    """Every image once, in one view; partners that are mixed stay side by side."""
    order = np.arange(images)
    if augment.mixes:
        order = _paired(order, partners(images, seed=seed, pairing=view // augment.repeats))
    parts = np.split(order, range(batch_size, images, batch_size))
    return EpochPlan(parts, [np.full(len(part), view) for part in parts])


def _paired(order: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """`order` with each image's partner moved right behind it; an image without one comes last."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    first = order[place[order] < place[partner[order]]]
    return np.concatenate([np.stack([first, partner[first]], axis=1).ravel(), order[partner[order] == order]])


class _Batches(Dataset[Batch]):
    def __init__(
        self,
        images: LabelledImages,
        plan: Callable[[int], EpochPlan],
        per_plan: int,
        augment: AugmentOptions,
        seed: int,
    ) -> None:
        self.images, self.plan, self.per_plan, self.augment, self.seed = images, plan, per_plan, augment, seed
        self.latest: tuple[int, EpochPlan] | None = None

    def __getitem__(self, number: int) -> Batch:
        which, place = divmod(number, self.per_plan)
        if self.latest is None or self.latest[0] != which:
            self.latest = which, self.plan(which)
        plan = self.latest[1]
        index, view = plan.images[place], plan.views[place]
        images, labels, classes = self.images
        raw, target = mixed_views(images, labels, len(classes), index, self.augment, seed=self.seed, view=view)
        return Batch(torch.from_numpy(np.ascontiguousarray(raw)), torch.from_numpy(target), index, view)


def batches(
    images: LabelledImages,
    plan: Callable[[int], EpochPlan],
    per_plan: int,
    augment: AugmentOptions,
    *,
    seed: int,
    numbers: range,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches in the order of their numbers, over all plans: worker processes live on from one epoch to the next.

    Args:
        plan: gives the plan of an epoch, or of a view, by its number.
        per_plan: batches in each plan; batch `n` is number `n % per_plan` of `plan(n // per_plan)`.
        numbers: which batches.
        workers: processes that prepare batches ahead of time, with the same pixels.
    """
    return in_order(_Batches(images, plan, per_plan, augment, seed), numbers, workers=workers)
