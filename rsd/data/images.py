"""Labelled images in memory or memory-mapped, and the record that describes a prepared data set."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from rsd.errors import UserError
from rsd.files import read_json, written_aside
from rsd.options import Options


class SourceOptions(Options):
    """What every source of images has in common."""

    validation: float = Field(0.1, gt=0, lt=0.5)
    """Share of the training images that selects; stratified by class."""
    hold_out: bool = True
    """Whether training leaves the validation images out; false only to follow a protocol without validation."""
    seed: int = Field(0, ge=0)
    """Seed of the split."""


class LabelledImages(NamedTuple):
    """Images uint8 `[N, H, W, C]`, labels int64 `[N]`, and the names of the classes."""

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]


class DatasetRecord(BaseModel):
    """`dataset.json`: what a prepared data set is."""

    source: str
    classes: list[str]
    height: int
    width: int
    channels: int
    mean: list[float]
    """Channel means of the training split, in [0, 1]."""
    std: list[float]
    """Channel standard deviations of the training split, in [0, 1]."""
    counts: dict[str, int]
    """Images per split."""
    checksums: dict[str, str]
    """SHA-256 of every file."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


def write_split(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one split as `images.npy` and `labels.npy`."""
    with written_aside(folder) as aside:
        aside.mkdir()
        np.save(aside / "images.npy", np.ascontiguousarray(images))
        np.save(aside / "labels.npy", labels)


def read_record(data: Path) -> DatasetRecord:
    return DatasetRecord.model_validate(read_json(data / "dataset.json"))


def read_split(data: Path, split: str) -> LabelledImages:
    """A prepared split, memory-mapped.

    Raises:
        UserError: the split is not there, or its images and labels do not belong together.
    """
    folder = data / split
    if not (folder / "images.npy").is_file():
        raise UserError(f"expected a prepared split in {folder}, found none; run `dvc repro prepare`")
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    if len(images) != len(labels):
        raise UserError(
            f"expected one label per image in {folder}, found {len(labels)} labels for {len(images)} images; "
            "run `dvc repro prepare`"
        )
    return LabelledImages(images, labels, read_record(data).classes)
