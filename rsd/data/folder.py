"""Anyone's image files, one folder per class; ImageNet-1k in its usual layout is one of them."""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from rsd.data.images import SourceOptions


class FolderOptions(SourceOptions):
    """`data.source: folder`; nothing is copied."""

    source: Literal["folder"]
    root: Path = Field(strict=False)
    """`root/CLASS/*`, or `root/{train,val,test}/CLASS/*`."""
    size: int = Field(224, ge=8, le=1024)
    """Side in pixels at which the images are served."""
    crop_share: float = Field(0.875, gt=0, le=1)
    """Without augmentation: the central square of this share of the shorter side."""
    test: float = Field(0.2, gt=0, lt=0.5)
    """Share of the images that is the test split where the folder has none of its own; stratified by class."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What to do with images that cannot be used: name them all and stop, or name them and leave them out."""


class ImageIndex(NamedTuple):
    """The image files of a split."""

    paths: list[str]
    labels: np.ndarray
    sizes: np.ndarray
    digests: list[str]


class FolderIndex(NamedTuple):
    splits: dict[str, ImageIndex]
    classes: list[str]
    mean: list[float]
    std: list[float]
    findings: list[str]


def index_folder(options: FolderOptions, *, findings_file: Path | None = None) -> FolderIndex:
    raise NotImplementedError
