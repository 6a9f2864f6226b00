"""What it costs to check and index a folder of images: seconds, files per second, and memory.

    python -m benchmarks.folder_index
    python -m benchmarks.folder_index --images 2000 --side 500   # of the size of photographs

Makes a temporary folder of JPEG files in 100 classes (they differ in the bytes after the image, so that none is a
copy of another), indexes it in a process of its own, and removes it. The memory is the peak of that process and its
largest child, as the kernel counts it; threads make the index, so there should be no child.
With 100,000 files it must stay below 1 GB: the command ends with status 1 if it does not.
"""

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.command import command
from rsd.machine.errors import UserError
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
    before = _peak()
    start = time.perf_counter()
    index = index_folder(Folder(root=root))
    seconds = time.perf_counter() - start
    count = sum(len(part.paths) for part in index.splits.values())
    print(
        f"{count} images in {seconds:.1f} s, {count / seconds:.0f} images/s, {os.cpu_count()} cores, "
        f"peak memory {_peak():.0f} MB (of which {before:.0f} MB before it began)"
    )
    if _peak() > LARGEST:
        raise UserError(f"expected a peak below {LARGEST:.0f} MB, found {_peak():.0f} MB")


def _peak() -> float:
    """MB that this process and its largest child took at most."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1000


def main(
    images: int = 100_000,
    side: int = 64,
    root: Annotated[Path | None, typer.Option(help="Index this folder instead.")] = None,
) -> None:
    if root:
        measure(root)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), images, side)
        again = [sys.executable, "-m", "benchmarks.folder_index", "--root", folder]
        sys.exit(subprocess.run(again).returncode)


if __name__ == "__main__":
    command(main, __doc__)
