"""What a view of an image is: a pure function of (seed, image index, view number)."""

from typing import NamedTuple

import numpy as np
from pydantic import Field

from rsd.options import Options


class CropOptions(Options):
    """A random resized crop, as Inception's (Szegedy et al., CVPR 2015)."""

    scale: tuple[float, float] = Field((0.08, 1.0), strict=False)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), strict=False)
    """Smallest and largest width / height."""


class AugmentOptions(Options):
    """How a view differs from its image. The defaults change nothing. In this order:"""

    crop: CropOptions | None = None
    """`{}` is the usual random resized crop; null serves the whole image."""
    shift: int = Field(0, ge=0)
    """Largest shift in pixels, each way in both directions; what comes in is black."""
    flip: bool = False
    """Mirror half of the views left to right."""
    randaugment: str | None = None
    """timm's words for RandAugment, such as rand-m9-mstd0.5-inc1; null for none."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Largest change of brightness, contrast and saturation, as a share."""
    erase: float = Field(0.0, ge=0, le=1)
    """Share of the views in which a random rectangle is noise (Zhong et al., AAAI 2020)."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of the Beta distribution of mixup's shares (Zhang et al., ICLR 2018); 0 for none."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of CutMix (Yun et al., ICCV 2019); with mixup as well, each mixes half of the pairs."""


class ViewChoice(NamedTuple):
    """Which views are served: those of `seed`, `cycle` of them in turn, or a new one per epoch if 0."""

    seed: int
    cycle: int = 0

    def number(self, epoch: int) -> int:
        return epoch % self.cycle if self.cycle else epoch


_DRAWS = 8  # numbers per view; each has one use below


def uniform(seed: int, index: np.ndarray, view: int) -> np.ndarray:
    """Uniform numbers in [0, 1) for each image, float64 `[B, 8]`: a hash, so no order or worker matters.

    The finaliser of SplitMix64 (Steele et al., OOPSLA 2014) is applied after each of the four words.
    """
    words = (seed, index.astype(np.uint64)[:, None], view, np.arange(_DRAWS, dtype=np.uint64)[None])
    state = np.zeros((len(index), _DRAWS), np.uint64)
    for word in words:
        state = state + np.uint64(0x9E3779B97F4A7C15) + np.asarray(word, np.uint64)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53


def views(images: np.ndarray, index: np.ndarray, options: AugmentOptions, *, seed: int, view: int) -> np.ndarray:
    """View number `view` of `images[index]`.

    Args:
        images: uint8 `[N, H, W, C]`, the whole split.
        index: int64 `[B]`, which images.

    Returns:
        uint8 `[B, H, W, C]`; a row depends on its own index only, never on the batch around it.
    """
    height, width = images.shape[1:3]
    if not (options.shift or options.flip or options.erase):
        return images[index]
    draw = uniform(seed, index, view)
    span = 2 * options.shift + 1
    rows = np.arange(height) + (draw[:, 0:1] * span).astype(np.int64) - options.shift
    columns = np.arange(width) + (draw[:, 1:2] * span).astype(np.int64) - options.shift
    if options.flip:
        mirrored = draw[:, 2] < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    keep_rows = (rows >= 0) & (rows < height)
    keep_columns = (columns >= 0) & (columns < width)
    keep = keep_rows[:, :, None] & keep_columns[:, None, :]
    if options.erase:
        erased_rows = _between(draw[:, 3], draw[:, 4], height)
        erased_columns = _between(draw[:, 5], draw[:, 6], width)
        chosen = draw[:, 7] < options.erase
        keep &= ~(chosen[:, None, None] & erased_rows[:, :, None] & erased_columns[:, None, :])
    picked = images[index[:, None, None], rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :]]
    return picked * keep[..., None].astype(np.uint8)


def _between(size: np.ndarray, position: np.ndarray, side: int) -> np.ndarray:
    """Boolean `[B, side]`: a run of a quarter to a half of the side, anywhere on it."""
    length = side * (0.25 + 0.25 * size)
    start = position * (side - length)
    at = np.arange(side) + 0.5
    return (at >= start[:, None]) & (at < (start + length)[:, None])
