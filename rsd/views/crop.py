"""Random resized crops: which part of an image a view shows, and the pixels of that part."""

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import interpolate

from rsd.machine.options import Options
from rsd.sources.images import ArrayImages, ImageFiles
from rsd.views.draws import uniform

# The uniform numbers of a view that decide its crop: area, ratio, row and column of each of ten tries.
_FIRST_TRY, _TRIES = range(8, 12), range(8, 48)


class CropOptions(Options):
    """A random resized crop, as Inception's (Szegedy et al., CVPR 2015)."""

    scale: tuple[float, float] = Field((0.08, 1.0), strict=False)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), strict=False)
    """Smallest and largest width / height."""


def drawn_boxes(
    sizes: np.ndarray, options: CropOptions, *, seed: int, index: np.ndarray, view: np.ndarray
) -> np.ndarray:
    """A random part of each image, see `crop_boxes`; sizes `[B, 2]`, `index` and `view` int64 `[B]`."""
    boxes, fitting = crop_boxes(sizes, uniform(seed, index, view, _FIRST_TRY)[:, None], options)
    if len(others := np.flatnonzero(~fitting)):  # few images need more than the first try
        tries = uniform(seed, index[others], view[others], _TRIES).reshape(len(others), -1, 4)
        boxes[others] = crop_boxes(sizes[others], tries, options)[0]
    return boxes


def crop_boxes(sizes: np.ndarray, tries: np.ndarray, options: CropOptions) -> tuple[np.ndarray, np.ndarray]:
    """Random parts of images: top, left, height, width, float64 `[B, 4]`; and whether a try fits, bool `[B]`.

    Area and log aspect ratio are uniform. As in torchvision, the first try that fits into the image is taken; if none
    fits, the largest central part of an allowed ratio is.

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
    first_fit = np.stack([heights[rows, first], widths[rows, first]], axis=1)
    free = tries[rows, first, 2:4]
    whole = np.clip(width / height, *options.ratio)[:, 0]
    central = np.stack(
        [np.minimum(height[:, 0], width[:, 0] / whole), np.minimum(width[:, 0], height[:, 0] * whole)], 1
    )
    fitting = fits.any(axis=1)
    parts = np.where(fitting[:, None], first_fit, central)
    corner = np.where(fitting[:, None], free, 0.5) * (sizes - parts)
    return np.concatenate([corner, parts], axis=1), fitting


def crops(images: ArrayImages | ImageFiles, index: np.ndarray, boxes: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """One part of each image, at the size at which they are served, uint8 `[B, H, W, C]`.

    Args:
        boxes: top, left, height, width in the original's pixels, float64 `[B, 4]`.
        mirrored: bool `[B]`, which parts are flipped left to right.
    """
    side = images.shape[1:3]
    if isinstance(images, ImageFiles):
        served = np.empty((len(index), *images.shape[1:]), np.uint8)
        for row, (image, box) in enumerate(images.decoded(index, boxes)):
            rows, columns = _whole_pixels(box, (image.height, image.width))
            part = np.array(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
            served[row] = _resized(part, side, mirrored[row])
        return served
    arrays = np.asarray(images.array[index])
    if arrays.shape[1] > side[0] or arrays.shape[2] > side[1]:
        parts = [pixels[_whole_pixels(box, pixels.shape)] for pixels, box in zip(arrays, boxes, strict=True)]
        return np.stack([_resized(part, side, flip) for part, flip in zip(parts, mirrored, strict=True)])
    rows, columns = (
        boxes[:, [start]] + (np.arange(length) + 0.5) / length * boxes[:, [extent]] - 0.5
        for start, extent, length in ((0, 2, side[0]), (1, 3, side[1]))
    )
    columns[mirrored] = columns[mirrored, ::-1]
    return _transposed(_interpolated(_transposed(_interpolated(arrays, rows)), columns))


def flipped(images: np.ndarray) -> np.ndarray:
    """Images `[B, H, W, C]` flipped left to right; by torch, because numpy moves a pixel's bytes one by one."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1).numpy()


def _whole_pixels(box: np.ndarray, size: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns of a box in an image of height and width `size`; at least one of each."""
    spans = []
    for start, length, side in zip(box[:2].tolist(), box[2:].tolist(), size[:2], strict=True):
        count = min(max(round(length), 1), side)
        first = min(round(start), side - count)
        spans.append(slice(first, first + count))
    return spans[0], spans[1]


def _resized(pixels: np.ndarray, side: tuple[int, ...], mirrored: bool) -> np.ndarray:
    """Pixels uint8 `[h, w, C]` at another size, bicubic with antialiasing.

    torch computes bytes in integers, so every processor gives the same result; it takes a third of Pillow's time.
    """
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    planes = interpolate(planes, side, mode="bicubic", antialias=True)
    return (planes.flip(3) if mirrored else planes)[0].permute(1, 2, 0).numpy()


def _transposed(images: np.ndarray) -> np.ndarray:
    """Rows and columns of `[B, H, W, C]` exchanged; channel by channel takes an eighth of the time of all at once."""
    count, height, width, channels = images.shape
    transposed = np.empty((count, width, height, channels), np.uint8)
    for channel in range(channels):
        transposed[..., channel] = images[..., channel].swapaxes(1, 2)
    return transposed


def _interpolated(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Linear interpolation between rows: uint8 `[B, H, ...]` at positions `[B, S]` -> uint8 `[B, S, ...]`.

    There is no antialiasing, so it serves to enlarge. It takes a whole batch at once, in 16-bit integers, which is
    several times as fast as one image after the other.
    """
    count, height, *rest = images.shape
    rows = rows.clip(0, height - 1)
    low = rows.astype(np.int64)
    weight = np.rint(256 * (rows - low)).astype(np.uint16).reshape(-1, 1)
    first = np.arange(count)[:, None] * height
    flat = images.reshape(count * height, -1)
    total = flat.take((first + low).ravel(), axis=0).astype(np.uint16)
    total *= 256 - weight
    above = flat.take((first + np.minimum(low + 1, height - 1)).ravel(), axis=0).astype(np.uint16)
    above *= weight
    total += above
    total += 128
    total >>= 8
    return total.astype(np.uint8).reshape(count, rows.shape[1], *rest)
