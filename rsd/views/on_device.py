"""Views that are made on the training device, where a GPU would wait for the CPU: of images in memory, only moved."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from rsd.sources.images import ArrayImages, LabelledImages
from rsd.views.augment import AugmentOptions, changes
from rsd.views.batches import Batch, EpochPlan

SHARE = 0.25  # of the device's free memory that the images may take
PART = 4096  # images that are read into the CPU's memory at once


def fits(images: LabelledImages, augment: AugmentOptions, device: torch.device) -> bool:
    """Whether `device_batches` serves these: a GPU, arrays at the size at which they are served, and room for them."""
    source = images.images
    array = source.array if isinstance(source, ArrayImages) else source
    if device.type != "cuda" or not isinstance(array, np.ndarray) or array.shape != source.shape:
        return False
    return augment.only_moves and array.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]


def device_batches(
    images: LabelledImages,
    plan: Callable[[int], EpochPlan],
    per_plan: int,
    augment: AugmentOptions,
    device: torch.device,
    *,
    seed: int,
    numbers: range,
) -> Iterator[Batch]:
    """As `rsd.views.batches.batches`, with the same bits, on `device`; for images for which `fits` holds."""
    pixels = torch.empty(images.images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), PART):
        pixels[start : start + PART] = torch.from_numpy(np.array(images.images[start : start + PART]))
    labels = torch.from_numpy(images.labels).to(device)
    latest: tuple[int, EpochPlan] | None = None
    for number in numbers:
        which, place = divmod(number, per_plan)
        if latest is None or latest[0] != which:
            latest = which, plan(which)
        index, view = latest[1].images[place], latest[1].views[place]
        mirrored, moves = changes(index, augment, seed=seed, view=view)
        rows = torch.from_numpy(np.column_stack([index, mirrored, moves])).to(device, non_blocking=True)
        yield Batch(moved(pixels, rows, augment.shift), labels[rows[:, 0]], index, view)


def moved(pixels: Tensor, rows: Tensor, shift: int) -> Tensor:
    """Views uint8 `[B, H, W, C]` of images `[N, H, W, C]`.

    Args:
        rows: of each view the image, whether it is mirrored, and its first row and column in the image with a black
            border of `shift` pixels; int64 `[B, 4]`.
    """
    _, height, width, _ = pixels.shape
    index, mirrored, down, right = rows.T
    across = torch.arange(width, device=pixels.device).expand(len(rows), width)
    across = torch.where(mirrored[:, None] == 1, width - 1 - across, across) + right[:, None] - shift
    along = torch.arange(height, device=pixels.device) + down[:, None] - shift
    inside = ((along >= 0) & (along < height))[:, :, None] & ((across >= 0) & (across < width))[:, None, :]
    along, across = along.clamp(0, height - 1), across.clamp(0, width - 1)
    views = pixels[index[:, None, None], along[:, :, None], across[:, None, :]]
    return torch.where(inside[..., None], views, 0)
