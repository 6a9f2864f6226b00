"""Images that stay in their files, and the one way these are opened."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def decode(path: Path) -> Image.Image:
    """The image as it is meant to be seen: RGB, upright."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


class ImageFiles:
    """Image files below `root`, decoded when they are asked for and served at `size` x `size` pixels.

    Without augmentation that is the central square of `crop_share` of the shorter side.
    """

    def __init__(self, root: Path, paths: list[str], sizes: np.ndarray, *, size: int, crop_share: float) -> None:
        self.root = root
        self.paths = np.array([path.encode() for path in paths])  # not objects: worker processes share the memory
        self.originals = sizes.astype(np.int64)
        self.size = size
        self.crop_share = crop_share

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.paths), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any, /) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        sides = self.originals[chosen]
        square = self.crop_share * sides.min(axis=1, keepdims=True)
        return self.crops(chosen, np.concatenate([(sides - square) / 2, square, square], axis=1))

    def sizes(self, index: np.ndarray) -> np.ndarray:
        return self.originals[index]

    def crops(self, index: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        served = np.empty((len(index), self.size, self.size, 3), np.uint8)
        for row, (number, (top, left, height, width)) in enumerate(zip(index, boxes, strict=True)):
            image = decode(self.root / self.paths[number].decode())
            box = (left, top, min(left + width, image.width), min(top + height, image.height))
            served[row] = np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))
        return served
