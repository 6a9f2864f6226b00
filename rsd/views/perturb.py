"""Changes to a view's pixels after the crop: RandAugment, colour jitter, erasing."""

from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import ColorJitter

from rsd.views.draws import kept, seed_all, uniform

_SEED = range(60, 61)  # the number of the draw that seeds the global generators
_AREA, _RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of an erased rectangle, as in the paper


def perturbed(
    images: np.ndarray, randaugment: str | None, jitter: float, *, seed: int, index: np.ndarray, view: int | np.ndarray
) -> np.ndarray:
    """timm's RandAugment and torchvision's colour jitter of each image, uint8 `[B, H, W, C]`.

    Grey images pass through RGB.
    """
    # Both draw from global generators, which are seeded for each image and view, and restored at the end.
    seeds = (uniform(seed, index, view, _SEED)[:, 0] * 2**32).astype(np.int64)
    transforms = _transforms(randaugment, jitter, min(images.shape[1:3]))
    changed = np.empty_like(images)
    grey = images.shape[3] == 1
    with kept():
        for row, (pixels, number) in enumerate(zip(images, seeds.tolist(), strict=True)):
            image = Image.fromarray(pixels[..., 0]).convert("RGB") if grey else Image.fromarray(pixels)
            seed_all(number)
            for transform in transforms:
                image = transform(image)
            changed[row] = np.asarray(image.convert("L"))[..., None] if grey else np.asarray(image)
    return changed


@lru_cache(maxsize=4)
def _transforms(randaugment: str | None, jitter: float, side: int) -> list[Any]:
    transforms: list[Any] = []
    if randaugment:
        fill = {"translate_const": int(0.45 * side), "img_mean": (124, 116, 104)}  # timm's own, at this size
        transforms.append(rand_augment_transform(randaugment, fill))
    if jitter:
        transforms.append(ColorJitter(jitter, jitter, jitter))
    return transforms


def understands(words: str) -> bool:
    """Whether timm can make a RandAugment of these words."""
    try:
        rand_augment_transform(words, {})
    except (AssertionError, ValueError, KeyError, NotImplementedError):
        return False
    return words.startswith("rand")


def erased(
    images: np.ndarray, share: float, draw: np.ndarray, *, seed: int, index: np.ndarray, view: int | np.ndarray
) -> np.ndarray:
    """Noise in a rectangle of `share` of the images; `draw` `[B, 5]`: area, aspect ratio, row, column, whether."""
    height, width, channels = images.shape[1:]
    changed = np.array(images)
    views = np.broadcast_to(view, index.shape)
    for row in np.flatnonzero(draw[:, 4] < share):
        area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * draw[row, 0])
        ratio = np.exp(np.log(_RATIO[0]) + np.log(_RATIO[1] / _RATIO[0]) * draw[row, 1])
        high = int(np.clip(round(np.sqrt(area * ratio)), 1, height))
        wide = int(np.clip(round(np.sqrt(area / ratio)), 1, width))
        top, left = int(draw[row, 2] * (height - high + 1)), int(draw[row, 3] * (width - wide + 1))
        noise = np.random.default_rng([seed, index[row], views[row]]).normal(127.5, 64.0, (high, wide, channels))
        changed[row, top : top + high, left : left + wide] = noise.clip(0, 255)
    return changed
