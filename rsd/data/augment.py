"""What a view of an image is: a pure function of (seed, image index, view number)."""

from typing import NamedTuple

import numpy as np
from pydantic import Field, field_validator, model_validator

from rsd.data.draws import uniform
from rsd.data.images import ArrayImages, CroppedImages, Images
from rsd.data.perturb import erased, perturbed, understands
from rsd.options import Options


class CropOptions(Options):
    """A random resized crop, as Inception's (Szegedy et al., CVPR 2015)."""

    scale: tuple[float, float] = Field((0.08, 1.0), strict=False)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), strict=False)
    """Smallest and largest width / height."""


class AugmentOptions(Options):
    """How a view differs from its image, in this order. The defaults change nothing."""

    shift: int = Field(0, ge=0)
    """Largest shift in pixels, each way in both directions; what comes in is black."""
    crop: CropOptions | None = None
    """`{}` is the usual random resized crop; null serves the whole image."""
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
    repeats: int = Field(1, gt=0)
    """Each image comes in so many views per epoch (Hoffer et al., CVPR 2020); an epoch then holds that much fewer
    different images."""

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> "AugmentOptions":
        if self.shift and self.crop:
            raise ValueError("expected crop or shift, found both; set shift to 0 or crop to null")
        return self

    @field_validator("randaugment")
    @classmethod
    def _understood(cls, words: str | None) -> str | None:
        if words is not None and not understands(words):
            raise ValueError(f"expected timm's words for RandAugment, such as rand-m9-mstd0.5-inc1, found '{words}'")
        return words

    @property
    def mixes(self) -> bool:
        """Whether images are mixed in pairs, so that labels are probabilities."""
        return bool(self.mixup or self.cutmix)


class ViewChoice(NamedTuple):
    """Which views are served: those of `seed`, `cycle` of them in turn, or new ones each epoch if 0."""

    seed: int
    cycle: int = 0

    def number(self, epoch: int, repeats: int = 1, repeat: int = 0) -> int:
        view = epoch * repeats + repeat
        return view % self.cycle if self.cycle else view


# What each of a view's uniform numbers decides. 3 to 7 belong to `erased`.
_SHIFT, _FLIP, _CROP = slice(0, 2), 2, 8
_TRIES = 10


def views(
    images: Images, index: np.ndarray, options: AugmentOptions, *, seed: int, view: int | np.ndarray
) -> np.ndarray:
    """Views of `images[index]`, not mixed yet.

    Args:
        images: the whole split.
        index: int64 `[B]`, which images.
        view: view number, one for all or int64 `[B]`.

    Returns:
        uint8 `[B, H, W, C]`; a row depends on its own index and view only, never on the batch around it.
    """
    draw = uniform(seed, index, view, 8) if options.shift or options.flip or options.erase else np.empty(0)
    if options.crop:
        source: CroppedImages = ArrayImages(images) if isinstance(images, np.ndarray) else images  # type: ignore[assignment]
        tries = uniform(seed, index, view, _CROP + 4 * _TRIES)[:, _CROP:].reshape(len(index), _TRIES, 4)
        pixels = source.crops(index, crop_boxes(source.sizes(index), tries, options.crop))
    else:
        pixels = images[index]
    mirrored = draw[:, _FLIP] < 0.5 if options.flip else np.zeros(len(index), bool)
    if options.shift:
        pixels = _moved(pixels, draw[:, _SHIFT], options.shift, mirrored)
    elif options.flip:
        pixels = np.array(pixels)
        pixels[mirrored] = pixels[mirrored, :, ::-1]
    if options.randaugment or options.color_jitter:
        pixels = perturbed(pixels, options.randaugment, options.color_jitter, seed=seed, index=index, view=view)
    if options.erase:
        pixels = erased(pixels, options.erase, draw[:, 3:8], seed=seed, index=index, view=view)
    return pixels


def crop_boxes(sizes: np.ndarray, tries: np.ndarray, options: CropOptions) -> np.ndarray:
    """Random parts of images: top, left, height, width, float64 `[B, 4]`.

    Area and log aspect ratio are uniform; the first of the tries that fits into its image is taken, as
    torchvision does, and the largest central part of an allowed ratio where none fits.

    Args:
        sizes: height and width of each image, `[B, 2]`.
        tries: uniform numbers, `[B, tries, 4]`.
    """
    height, width = sizes[:, 0:1].astype(float), sizes[:, 1:2].astype(float)
    area = height * width * (options.scale[0] + (options.scale[1] - options.scale[0]) * tries[:, :, 0])
    low, high = np.log(options.ratio)
    ratio = np.exp(low + (high - low) * tries[:, :, 1])
    heights, widths = np.sqrt(area / ratio), np.sqrt(area * ratio)
    fits = (heights <= height) & (widths <= width)
    rows, first = np.arange(len(sizes)), fits.argmax(axis=1)
    picked = np.stack([heights[rows, first], widths[rows, first]], axis=1)
    free = tries[rows, first, 2:4]
    whole = np.clip(width / height, *options.ratio)[:, 0]
    central = np.stack(
        [np.minimum(height[:, 0], width[:, 0] / whole), np.minimum(width[:, 0], height[:, 0] * whole)], 1
    )
    fitting = fits.any(axis=1, keepdims=True)
    parts = np.where(fitting, picked, central)
    corner = np.where(fitting, free, 0.5) * (sizes - parts)
    return np.concatenate([corner, parts], axis=1)


def _moved(images: np.ndarray, draw: np.ndarray, shift: int, mirrored: np.ndarray) -> np.ndarray:
    """Images `[B, H, W, C]` moved by up to `shift` pixels over black, some of them then mirrored."""
    height, width = images.shape[1:3]
    steps = (draw * (2 * shift + 1)).astype(np.int64) - shift
    moved = np.zeros_like(images)
    for row, ((down, right), mirror) in enumerate(zip(steps.tolist(), mirrored.tolist(), strict=True)):
        part = images[row, max(down, 0) : max(height + down, 0), max(right, 0) : max(width + right, 0)]
        into = moved[row, max(-down, 0) :, max(-right, 0) :][: part.shape[0], : part.shape[1]]
        into[...] = part
        if mirror:
            moved[row] = moved[row, :, ::-1].copy()
    return moved
