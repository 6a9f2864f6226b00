"""How fast batches of views are served, beside timm's loader on the same images.

    python -m benchmarks.loader
    python -m benchmarks.loader --clock cpu   # on a machine that does other work meanwhile

About three minutes. Random images in the format of CIFAR-100 (50,000 of 32 x 32 in memory; timm reads them through
torchvision's data set, as its users do) and JPEGs of 500 x 375 in a folder, served at 224. Both sides crop, flip
and, in the second half of the rows, apply RandAugment; batches of 128, one CPU thread, no worker processes, so that
the cost of an image is what is compared. timm's loader is set as its training script sets it. A turn is so many
batches of each, turn by turn; the ratio is the median of the ratios within a turn.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_loader
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from benchmarks.command import CLOCKS, Clock, command
from benchmarks.interleaved import interleaved, markdown, spread
from rsd.sources.images import ArrayImages, ImageFiles, Images, LabelledImages
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.batches import batch_count, batches, epoch_plan
from rsd.views.crop import CropOptions

BATCH, CLASSES, POLICY = 128, 100, "rand-m9-mstd0.5-inc1"
TARGETS = {"32 px, in memory": 10.0, "JPEG": 1.0}


class _Pictures(Dataset[tuple[Image.Image, int]]):
    """As `torchvision.datasets.CIFAR100` serves what it holds in memory: a PIL image and a label."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.pixels[index])
        return (self.transform(image) if self.transform else image), int(self.labels[index])


def ours(images: Images, labels: np.ndarray, augment: AugmentOptions) -> Iterator[Any]:
    """Batches without end."""
    split = LabelledImages(images, labels, [str(number) for number in range(CLASSES)])
    plan = partial(epoch_plan, images=len(labels), batch_size=BATCH, augment=augment, seed=0, view_choice=ViewChoice(0))
    return batches(split, plan, batch_count(len(labels), BATCH), augment, seed=0, numbers=range(sys.maxsize))


def theirs(dataset: Any, size: int, policy: str | None) -> Iterator[Any]:
    """timm's batches without end; uint8, as ours: what normalises on the device is left to it."""
    loader = create_loader(
        dataset,
        input_size=(3, size, size),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=True,  # which collates uint8
        num_workers=0,
        auto_augment=policy,
        interpolation="random",  # what its training script sets: of each crop and augmentation bilinear or bicubic
        color_jitter=0.0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    while True:
        yield from loader.loader  # without the normalisation, which our side leaves to the model, too


def pulled(served: Iterator[Any], count: int) -> Callable[[], None]:
    def turn() -> None:
        for _ in range(count):
            next(served)

    return turn


def write_jpegs(root: Path, count: int) -> ImageFiles:
    """Smooth random JPEGs of 500 x 375 pixels, the usual size of ImageNet's."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = root / f"{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (38, 50, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(str(path.relative_to(root)))
    return ImageFiles(root, paths, np.tile([[375, 500]], (count, 1)), size=224, crop_share=0.875)


def main(rounds: int = 9, clock: Clock = "wall") -> None:
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, len(pixels))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        files = write_jpegs(Path(name), 4 * BATCH)
        for policy in (None, POLICY):
            augment = AugmentOptions(crop=CropOptions(), flip=True, randaugment=policy)
            for what, size, count, mine, other in (
                ("32 px, in memory", 32, 8, ArrayImages(pixels), _Pictures(pixels, labels)),
                ("JPEG", 224, 1, files, ImageFolder(name)),
            ):
                served = {"rsd": ours(mine, labels[: len(mine)], augment), "timm": theirs(other, size, policy)}
                turns = {name: pulled(stream, count) for name, stream in served.items()}
                times = interleaved(turns, rounds=rounds, warmup=1, clock=CLOCKS[clock])
                rates = {f"{name}, images/s": spread(count * BATCH / times[name], digits=5) for name in turns}
                row = {"images": what, "RandAugment": policy or "-", **rates}
                row["times as fast"] = spread(times["timm"] / times["rsd"])
                rows.append({**row, "target": f"{TARGETS[what]:g}" if policy is None else "-"})
    print(markdown(rows))


if __name__ == "__main__":
    command(main, __doc__)
