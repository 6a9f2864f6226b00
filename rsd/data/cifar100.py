"""CIFAR-100 from a folder or an archive: 50,000 + 10,000 colour images of 32 x 32 pixels."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from rsd.data.images import LabelledImages, SourceOptions


class Cifar100Options(SourceOptions):
    """`data.source: cifar100`."""

    source: Literal["cifar100"]
    root: Path = Field(Path("datasets"), strict=False)
    """Holds `cifar-100-python/` or `cifar-100-python.tar.gz`, or is one of the two."""
    download: bool = False
    """Whether torchvision may fetch the archive into `root` where it is missing."""
    size: int | None = Field(None, ge=8, le=512)
    """Side in pixels at which the images are served; null: 32, as they are."""


def load(options: Cifar100Options) -> tuple[LabelledImages, LabelledImages]:
    """The official training and test images, uint8 `[N, 32, 32, 3]`."""
    raise NotImplementedError
