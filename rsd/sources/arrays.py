"""Sources whose images fit into memory, as arrays: how they are split and written."""

from pathlib import Path

import numpy as np
from pydantic import Field

from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.sources.base import Source
from rsd.sources.images import DatasetRecord, LabelledImages, write_arrays
from rsd.sources.labels import hide_labels


class ArraySource(Source):
    """A source of images of one size; a subclass loads them."""

    size: int | None = Field(None, ge=8, le=512)
    """Side in pixels at which the images are served; null: as they are."""

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        """Images for training and validation, and test images, uint8 `[N, H, W, C]`; UserError for a bad file."""
        raise NotImplementedError

    @property
    def validation_share(self) -> float:
        """Share of the first images of `load` in the validation split."""
        return self.validation

    def splits(self) -> dict[str, LabelledImages]:
        """The train, validation and test splits; and the teacher's, where it has images of its own."""
        rest, test = self.load()
        left, validation = stratified(rest, self.validation_share, self.seed)
        train = left if self.hold_out else rest
        if self.train_share < 1:
            train = stratified(train, self.train_share, self.seed)[1]
        splits = {"validation": validation, "test": test}
        if self.teacher_share:
            train, splits["teacher"] = stratified(train, self.teacher_share, self.seed)
        if self.labelled is not None:
            train = train._replace(labels=hide_labels(train.labels, self.labelled, train.classes, seed=self.seed))
        return {"train": train, **splits}

    def prepare(self, out: Path) -> DatasetRecord:
        splits = self.splits()
        train = splits["train"]
        known = np.flatnonzero(train.labels >= 0)
        of_teacher = train
        if len(known) < len(train.labels):
            of_teacher = train._replace(images=train.images[known], labels=train.labels[known])
        checksums = {
            f"{name}/{file}": digest
            for name, part in ({"teacher": of_teacher} | splits).items()
            for file, digest in write_arrays(out / name, np.asarray(part.images), part.labels).items()
        }
        mean, std = channel_statistics(np.asarray(train.images))
        height, width, channels = train.images.shape[1:]
        return DatasetRecord(
            source=self.source,
            classes=train.classes,
            height=self.size or height,
            width=self.size or width,
            channels=channels,
            mean=mean,
            std=std,
            counts={name: len(part.labels) for name, part in splits.items()},
            labelled=len(known),
            checksums=checksums,
        )


def stratified(images: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Split off `share` of the images, the same share of every class; both parts keep the images' order."""
    needs("data", "sklearn")
    from sklearn.model_selection import train_test_split  # late: it takes seconds, and `params` imports this file

    try:
        rest, split_off = train_test_split(
            np.arange(len(images.labels)), test_size=share, random_state=seed, stratify=images.labels
        )
    except ValueError as error:
        raise UserError(f"expected classes large enough to split off {share:.0%} of each, found: {error}") from error
    first, second = (
        LabelledImages(images.images[rows], images.labels[rows], images.classes)
        for rows in (np.sort(rest), np.sort(split_off))
    )
    return first, second


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 `[N, H, W, C]`, in [0, 1], exact."""
    # A histogram per channel is exact, and needs no float copy of the images.
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ values)
        means.append(mean)
        stds.append(float(np.sqrt(share @ (values - mean) ** 2)))
    return means, stds
