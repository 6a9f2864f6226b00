"""What a view of an image is: a pure function of (seed, image index, view number)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, field_validator, model_validator

from rsd.machine.options import Options
from rsd.sources.images import ArrayImages, Images
from rsd.views.crop import CropOptions, crops, drawn_boxes, flipped
from rsd.views.draws import uniform
from rsd.views.perturb import erased, perturbed, understands


class AugmentOptions(Options):
    """How a view differs from its image; the changes are made in this order. The defaults change nothing."""

    shift: int = Field(0, ge=0, le=1024)
    """Largest shift in pixels, in all four directions; the uncovered border is black."""
    crop: CropOptions | None = None
    """`{}` is the usual random resized crop; null serves the whole image."""
    flip: bool = False
    """Mirror half of the views left to right."""
    randaugment: str | None = None
    """RandAugment as timm writes it, such as rand-m9-mstd0.5-inc1; null for none."""
    color_jitter: float = Field(0.0, ge=0, le=1)
    """Largest change of brightness, contrast and saturation, as a share."""
    erase: float = Field(0.0, ge=0, le=1)
    """Share of the views in which noise covers a random rectangle (Zhong et al., AAAI 2020)."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of the Beta distribution of mixup's shares (Zhang et al., ICLR 2018); 0 for none."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of CutMix (Yun et al., ICCV 2019). If mixup is on too, each mixes half of the pairs."""
    repeats: int = Field(1, gt=0, le=1000)
    """Views of each image in an epoch (Hoffer et al., CVPR 2020); an epoch then has that many times fewer different
    images."""

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> "AugmentOptions":
        if self.shift and self.crop:
            raise ValueError("expected crop or shift, found both; set shift to 0 or crop to null")
        return self

    @field_validator("randaugment")
    @classmethod
    def _understood(cls, words: str | None) -> str | None:
        if words is not None and not understands(words):
            raise ValueError(f"expected RandAugment as timm writes it, such as rand-m9-mstd0.5-inc1, found '{words}'")
        return words

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs, so that labels are probabilities."""
        return bool(self.mixup or self.cutmix)

    @property
    def only_moves(self) -> bool:
        """Whether a view has its image's own pixels, at most moved or mirrored."""
        return not (self.crop or self.randaugment or self.color_jitter or self.erase or self.mixes)


class ViewChoice(NamedTuple):
    """Which views of `seed` are served: `cycle` of them in turn, or new views in each epoch if 0."""

    seed: int
    cycle: int = 0

    def number(self, epoch: int, repeats: int = 1, repeat: int = 0) -> int:
        view = epoch * repeats + repeat
        return view % self.cycle if self.cycle else view


_MOVE, _ERASE = range(3), range(3, 8)  # what a view's first uniform numbers decide; the next ones decide crops


def views(
    images: Images, index: np.ndarray, options: AugmentOptions, *, seed: int, view: int | np.ndarray
) -> np.ndarray:
    """Views of `images[index]` before mixing.

    Args:
        images: the whole split.
        index: int64 `[B]`, which images.
        view: view number, one for all or int64 `[B]`.

    Returns:
        uint8 `[B, H, W, C]`; a row depends on its own index and view only, never on the batch around it.
    """
    view = np.broadcast_to(view, index.shape)
    mirrored, moves = changes(index, options, seed=seed, view=view)
    if options.crop:
        source: Any = ArrayImages(images) if isinstance(images, np.ndarray) else images
        boxes = drawn_boxes(source.sizes(index), options.crop, seed=seed, index=index, view=view)
        pixels = crops(source, index, boxes, mirrored)
    else:
        pixels = images[index]
        if options.shift:
            pixels = _moved(pixels, moves, options.shift)
        if mirrored.any():
            pixels = np.array(pixels)
            pixels[mirrored] = flipped(pixels[mirrored])
    if options.randaugment or options.color_jitter:
        pixels = perturbed(pixels, options.randaugment, options.color_jitter, seed=seed, index=index, view=view)
    if options.erase:
        draw = uniform(seed, index, view, _ERASE)
        pixels = erased(pixels, options.erase, draw, seed=seed, index=index, view=view)
    return pixels


def changes(
    index: np.ndarray, options: AugmentOptions, *, seed: int, view: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which views are mirrored, bool `[B]`; and where each begins in its image with a black border of `shift` pixels,
    rows and columns, int64 `[B, 2]`. For whoever makes views that differ in nothing else (`AugmentOptions.only_moves`).
    """
    draw = uniform(seed, index, view, _MOVE)
    return (draw[:, 2] < 0.5) & options.flip, (draw[:, :2] * (2 * options.shift + 1)).astype(np.int64)


def _moved(images: np.ndarray, moves: np.ndarray, shift: int) -> np.ndarray:
    """Images `[B, H, W, C]` moved by up to `shift` pixels over black."""
    count, height, width, channels = images.shape
    down, right = moves.T
    padded = np.zeros((count, height + 2 * shift, width + 2 * shift, channels), np.uint8)
    padded[:, shift : shift + height, shift : shift + width] = images
    windows = sliding_window_view(padded, (height, width), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    return windows[np.arange(count), down, right]
