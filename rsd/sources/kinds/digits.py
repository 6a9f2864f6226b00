"""The handwritten digits that scikit-learn ships: 1,797 grey images of 8 x 8 pixels, 10 classes."""

import numpy as np
from PIL import Image
from pydantic import Field

from rsd.machine.extras import needs
from rsd.sources.arrays import ArraySource, stratified
from rsd.sources.images import LabelledImages


class Digits(ArraySource):
    """`data.source: digits`; nothing is downloaded."""

    size: int = Field(16, ge=8, le=224)
    """Side of the images in pixels; the originals are resized bilinearly."""
    validation: float = Field(0.2, gt=0, lt=0.5)
    """Share of all images in the validation split; stratified by class."""
    test: float = Field(0.3, gt=0, lt=0.5)
    """Share of all images in the test split; stratified by class."""

    @property
    def validation_share(self) -> float:
        return self.validation / (1 - self.test)

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        return stratified(self.every(), self.test, self.seed)

    def every(self) -> LabelledImages:
        """All digits, uint8 `[1797, size, size, 1]`."""
        needs("data", "sklearn")
        from sklearn.datasets import load_digits  # late, as in arrays.py

        digits = load_digits()
        grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        side = (self.size, self.size)
        images = np.stack([np.asarray(Image.fromarray(g).resize(side, Image.Resampling.BILINEAR)) for g in grey])
        return LabelledImages(images[..., None], digits.target.astype(np.int64), [str(d) for d in range(10)])
