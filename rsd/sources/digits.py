"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8 x 8 pixels, 10 classes."""

from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from rsd.machine.extras import needs
from rsd.sources.images import LabelledImages, SourceOptions


class DigitsOptions(SourceOptions):
    """`data.source: digits`; nothing is downloaded."""

    source: Literal["digits"]
    size: int = Field(16, ge=8, le=224)
    """Side of the images in pixels; the originals are resized bilinearly."""
    validation: float = Field(0.2, gt=0, lt=0.5)
    """Share of all images that selects; stratified by class."""
    test: float = Field(0.3, gt=0, lt=0.5)
    """Share of all images that is read once, by `evaluate`; stratified by class."""


def load(options: DigitsOptions) -> LabelledImages:
    """All digits, as uint8 `[1797, size, size, 1]`."""
    needs("data", "sklearn")
    from sklearn.datasets import load_digits  # seconds to import, and every stage that reads params would pay

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    side = (options.size, options.size)
    images = np.stack([np.asarray(Image.fromarray(g).resize(side, Image.Resampling.BILINEAR)) for g in grey])
    return LabelledImages(images[..., None], digits.target.astype(np.int64), [str(d) for d in range(10)])
