"""A view store larger than memory: how fast it is written and read from the disk, and what that takes of memory.

    python -m benchmarks.large_store                                 # 23 GB, which are deleted; three minutes or more
    python -m benchmarks.large_store --folder /mnt/disk --seconds 30

The store has ImageNet's images (1,281,167), an embedding of 768 and 1,000 logits of each, and five views. The stage's
own `write_store` writes it, for a teacher that costs nothing. Then batches of 256 images in the random order of an
epoch are looked up, for some seconds a way. Each way starts on a cold cache: the file's pages are dropped first.
*Nothing cached* drops them before every batch, as if memory were full of other things: every row comes from the disk.
A rate is compared with what a step needs: ResNet18 at 224 pixels trains with about 5,000 images a second on an H100
(docs/gpu.md), and with 10 on a CPU. *With a step* sleeps as long as such a step takes, while the next batch is read.
Memory is what the process holds beyond its start: its own, and pages of mapped files. The page cache, which the system
gives to whoever needs it, is not in it. Linux alone counts the mapped files of a process.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.command import command
from benchmarks.interleaved import markdown
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.teacher.embed import write_store
from rsd.teacher.store import ResidentMemory, StoredTeacher, ViewOptions
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.batches import epoch_plan

IMAGES, WIDTH, CLASSES, BATCH, VIEWS = 1_281_167, 768, 1000, 256, 5
WARM = 400
"""Batches that are looked up twice, 0.4 GB."""
NEED = 5000
"""Images a second: a step of ResNet18 at 224 pixels on an H100 in bf16."""
Batches = list[tuple[np.ndarray, np.ndarray]]


class Cheap(nn.Module):
    """A teacher that costs nothing beside the store: a linear map of sixteen pixels."""

    head_hidden_size, num_classes = WIDTH, CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(0)))

    def forward_features(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weight

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features if pre_logits else features.repeat(1, 2)[:, :CLASSES]


def resident() -> np.ndarray:
    """MB that this process holds: its own, and of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return np.array([int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")])


def from_disk() -> int:
    """Bytes that this process has read from a disk."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def written(folder: Path, images: int, views: int) -> dict[str, str]:
    """Write the store; the row of the table about it."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 4, 4, 1), dtype=np.uint8)
    data = LabelledImages(pixels, np.arange(images) % CLASSES, [str(number) for number in range(CLASSES)])
    teacher, before, most = Cheap(), resident(), np.zeros(2)

    def watch(*_: object) -> None:
        np.maximum(most, resident() - before, out=most)

    normalize = PixelNormalize([0.5], [0.25])
    normalize.register_forward_hook(watch)
    start = time.perf_counter()
    write_store(
        folder, teacher, normalize, data, augment=AugmentOptions(), options=ViewOptions(count=views), made_from={},
        unfinished=folder.with_suffix(".unfinished"),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in folder.iterdir())
    return row("written", images * views / seconds, size / seconds, most)


def row(way: str, rate: float, disk: float, memory: np.ndarray) -> dict[str, str]:
    return {
        "way": way,
        "images/s": f"{rate:,.0f}",
        "of the need": f"{rate / NEED:.2f}",
        "disk, MB/s": f"{disk / 1e6:.0f}",
        "own memory, MB": f"{memory[0]:.0f}",
        "mapped, MB": f"{memory[1]:.0f}",
    }


def ours(folder: Path) -> StoredTeacher:
    return StoredTeacher(folder, made_from={}, device=torch.device("cpu"))


def drop(folder: Path, resident: ResidentMemory) -> None:
    """Take the store out of the page cache, from which no page goes that a process holds."""
    resident.give_back()
    for file in folder.glob("*.npy"):
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class ByNumpy:
    """Rows by an index in brackets into the memory-mapped arrays, without any advice to the system."""

    def __init__(self, folder: Path) -> None:
        self.arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in Outputs._fields]
        self.resident = ResidentMemory(self.arrays)

    def prefetch(self, index: np.ndarray, view: np.ndarray) -> None:
        """It cannot."""

    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs:
        return Outputs(*(torch.from_numpy(array[view, index]) for array in self.arrays))


def read(
    way: str, make: Callable[[Path], ByNumpy | StoredTeacher], folder: Path, batches: Batches, *,
    seconds: float, step: float = 0.0, cached: bool = True, warm: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Look batches up for some seconds; the row of the table about it.

    Args:
        step: seconds of a step, in which the next batch is read ahead.
        cached: whether the page cache keeps what was read.
        warm: whether the batches are looked up before, untimed.
    """
    store = make(folder)
    drop(folder, store.resident)
    before, most, images, spent = resident(), np.zeros(2), 0, 0.0
    for index, view in batches if warm else []:
        store(torch.empty(0), index, view)
    bytes_before = from_disk()
    for index, view in batches:
        if not cached:
            drop(folder, store.resident)
        spent += step  # exactly so long; a sleep takes longer, for which the store is not to blame
        if step:
            start = time.perf_counter()
            store.prefetch(index, view)
            spent += time.perf_counter() - start
            time.sleep(step)
        start = time.perf_counter()
        store(torch.empty(0), index, view)
        spent += time.perf_counter() - start
        images += len(index)
        np.maximum(most, resident() - before, out=most)
        if spent > seconds:
            break
    return row(way, images / spent, (from_disk() - bytes_before) / spent, most)


def main(images: int = IMAGES, views: int = VIEWS, seconds: float = 10, folder: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = Path(place) / "views"
        rows = [written(store, images, views)]
        plans = [
            epoch_plan(number, images, BATCH, AugmentOptions(), seed=0, view_choice=ViewChoice(0, views))
            for number in range(3)
        ]
        first, second, third = (list(zip(plan.images, plan.views, strict=True)) for plan in plans)
        measure = partial(read, folder=store, seconds=seconds)
        rows += [
            measure("numpy, cold", ByNumpy, batches=first),
            measure("ours, cold", ours, batches=first),
            measure("numpy, warm", ByNumpy, batches=first[:WARM], warm=True),
            measure("ours, warm", ours, batches=first[:WARM], warm=True),
            measure("numpy, nothing cached", ByNumpy, batches=second, cached=False),
            measure("ours, nothing cached", ours, batches=second, cached=False),
            measure("numpy, nothing cached, with a step", ByNumpy, batches=third, cached=False, step=BATCH / NEED),
            measure("ours, nothing cached, with a step", ours, batches=third, cached=False, step=BATCH / NEED),
        ]
    print(markdown(rows))


if __name__ == "__main__":
    command(main, __doc__)
