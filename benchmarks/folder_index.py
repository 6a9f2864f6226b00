"""What it costs to check and index a folder of images: seconds, files per second, and memory.

    python -m benchmarks.folder_index
    python -m benchmarks.folder_index --images 2000 --side 500   # of the size of photographs

Makes a temporary folder of JPEG files in 100 classes (they differ in the bytes after the image, so that none is a
copy of another), indexes it in a process of its own, and removes it. The memory is the peak of that process, as the
kernel counts it; its threads make the index.
With 100,000 files it must stay below 1 GB: the command ends with status 1 if it does not.
"""

import io
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.command import command
from rsd.machine.errors import UserError
from rsd.measure.latency import peak_memory
from rsd.sources.kinds.folder import Folder, index_folder

CLASSES = 100
LARGEST = 1000.0  # MB


def make(root: Path, images: int, side: int) -> None:
    """`images` JPEG files of `side` pixels below `root`, all different."""
    pixels = np.random.default_rng(0).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(buffer, "JPEG", quality=90)
    for c in range(CLASSES):
        (root / f"class{c:03}").mkdir()
    for i in range(images):
        (root / f"class{i % CLASSES:03}" / f"{i:07}.jpg").write_bytes(buffer.getvalue() + i.to_bytes(8, "big"))


def measure(root: Path) -> None:
    """Index `root` and print what it took; in a process that does nothing else."""
    before = (peak_memory() or 0) / 1e6
    start = time.perf_counter()
    index = index_folder(Folder(root=root))
    seconds = time.perf_counter() - start
    count = sum(len(part.paths) for part in index.splits.values())
    peak = (peak_memory() or 0) / 1e6
    print(
        f"{count} images in {seconds:.1f} s, {count / seconds:.0f} images/s, {os.cpu_count()} cores, "
        f"peak memory {peak:.0f} MB (of which {before:.0f} MB before it began)"
    )
    if peak > LARGEST:
        raise UserError(f"expected a peak below {LARGEST:.0f} MB, found {peak:.0f} MB")


def main(images: int = 100_000, side: int = 64) -> None:
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        make(Path(folder), images, side)
        pool.submit(measure, Path(folder)).result()


if __name__ == "__main__":
    command(main, __doc__)
