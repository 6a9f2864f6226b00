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
from rsd.views.mix import mixed_views, partners, partners_of
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
    """Full batches per epoch; the rest is dropped, as a correlation is over a whole batch. UserError without one."""
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


class Portions(NamedTuple):
    """What a batch of a partly labelled split holds: equal parts, in each the images with a label first."""

    parts: int
    """Of all processes together: each takes the same number of them."""
    labelled: int
    """Images with a label in each part."""
    unlabelled: int
    """Images without one in each part."""

    @property
    def batch_size(self) -> int:
        return self.parts * (self.labelled + self.unlabelled)


def portions(labels: np.ndarray, *, size: int, parts: int, labelled_share: float, repeats: int) -> Portions:
    """The portions nearest to `labelled_share`, with no image without a label twice in a batch.

    Args:
        labels: of the whole split, int64 `[N]`; -1 where there is none.
        size: images in each part.
        repeats: views of each image in an epoch.
    """
    without = int((labels < 0).sum())
    unlabelled = min(round(size * (1 - labelled_share)), size - 1, without * repeats // parts)
    return Portions(parts, size - unlabelled, unlabelled)


def partly_labelled_plan(
    epoch: int,
    labels: np.ndarray,
    shared: Portions,
    steps: int,
    augment: AugmentOptions,
    *,
    seed: int,
    view_choice: ViewChoice,
) -> EpochPlan:
    """An epoch's batches of a split in which some images have no label.

    The images with a label are passed through again and again, each pass in an order of its own and with views of its
    own, and so are the others. A pass through the others ends before the batch in which one would come twice.
    """
    halves = []
    parts = ((labels >= 0, shared.labelled, False), (labels < 0, shared.unlabelled, True))
    for stream, (is_member, rows, once) in enumerate(parts):
        members = np.flatnonzero(is_member)
        count, length = shared.parts * rows, len(members) * augment.repeats
        positions = range(epoch * steps * count, (epoch + 1) * steps * count)
        length = length // count * count if once and count else length
        images, views = _passes(members, positions, length, augment, (seed, stream), view_choice)
        halves.append((images.reshape(steps, shared.parts, rows), views.reshape(steps, shared.parts, rows)))
    images, views = (np.concatenate(both, axis=2).reshape(steps, -1) for both in zip(*halves, strict=True))
    return EpochPlan(list(images), list(views))


def _passes(
    members: np.ndarray,
    positions: range,
    length: int,
    augment: AugmentOptions,
    stream: tuple[int, int],
    view_choice: ViewChoice,
) -> tuple[np.ndarray, np.ndarray]:
    """Images and views at positions of endless passes through `members`, `length` rows each; `stream` seeds them."""
    repeats, together = augment.repeats, 2 if augment.mixes else 1
    images, views = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number in range(positions.start // length, -(-positions.stop // length)) if positions else ():
        seed, which = stream
        order = np.random.default_rng([seed, number, 2 + which]).permutation(len(members))
        view = np.array([view_choice.number(number, repeats, repeat) for repeat in range(repeats)])
        if augment.mixes:
            order = _paired(order, partners(len(members), seed=view_choice.seed, pairing=int(view[0]) // repeats))
        whole = len(order) // together * together  # an image without a partner comes last, alone
        units = np.repeat(order[:whole].reshape(-1, 1, together), repeats, axis=1)
        index = np.concatenate([units.ravel(), np.repeat(order[whole:], repeats)])
        shown = np.concatenate(
            [np.broadcast_to(view[None, :, None], units.shape).ravel(), np.tile(view, len(order) - whole)]
        )
        inside = slice(max(positions.start - number * length, 0), min(positions.stop - number * length, length))
        images.append(members[index[inside]])
        views.append(shown[inside])
    return np.concatenate(images), np.concatenate(views)


def store_plan(view: int, labels: np.ndarray, batch_size: int, augment: AugmentOptions, *, seed: int) -> EpochPlan:
    """Every image once, in one view; partners that are mixed stay side by side."""
    order = np.arange(len(labels))
    if augment.mixes:
        order = _paired(order, partners_of(order, labels, seed=seed, pairing=view // augment.repeats))
    parts = np.split(order, range(batch_size, len(labels), batch_size))
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
