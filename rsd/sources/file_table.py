"""Every image file of a folder, read and checked once: one row per file."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsd.machine.progress import progress
from rsd.sources.image_file import BadImageError, inspect
from rsd.sources.layout import Finding, Layout

_CHUNK = 32  # images per task of a thread


class FileTable(NamedTuple):
    """One row per image file that a layout names, in the order of splits and classes; those without a label last."""

    paths: list[str]
    split: np.ndarray
    """int8 `[N]`, position in the layout's splits; -1 without a label."""
    label: np.ndarray
    """int64 `[N]`, position in the classes; -1 without a label."""
    size: np.ndarray
    """int32 `[N, 2]`, height and width as shown."""
    digest: np.ndarray
    """uint8 `[N, 32]`, SHA-256 of the file."""
    sums: np.ndarray
    """int64 `[N, 7]`, see `Inspected.sums`; zeros where the image cannot be used."""
    pixels: np.ndarray
    """uint8 `[N, 32]`, see `Inspected.pixels`; zeros where every image has a label."""


def inspect_all(
    root: Path, layout: Layout, classes: list[str], *, served: int, workers: int | None = None
) -> tuple[FileTable, list[Finding]]:
    """Read every file that `layout` names, and list those that cannot be used.

    Args:
        served: side in pixels at which the images are served.
        workers: threads, since Pillow decodes outside of Python's lock; None: cores + 4, at most 32, as some wait for
            the disk. The result does not depend on it.
    """
    position = {name: c for c, name in enumerate(classes)}
    paths, split, label = [], [], []
    for s, by_class in enumerate(layout.files.values()):
        for name, images in by_class.items():
            paths += images
            split += [s] * len(images)
            label += [position[name]] * len(images)
    paths += layout.unlabelled
    split += [-1] * len(layout.unlabelled)
    label += [-1] * len(layout.unlabelled)
    count = len(paths)
    table = FileTable(
        paths,
        np.array(split, np.int8),
        np.array(label, np.int64),
        np.zeros((count, 2), np.int32),
        np.zeros((count, 32), np.uint8),
        np.zeros((count, 7), np.int64),
        np.zeros((count, 32), np.uint8),
    )

    def read(start: int) -> list[Finding]:
        """Fill some rows of the table; no two threads write the same row."""
        faults = []
        for row in range(start, min(start + _CHUNK, count)):
            try:
                facts = inspect(root / paths[row], served=served, pixels=bool(layout.unlabelled))
            except BadImageError as error:
                faults.append(Finding(paths[row], " ".join(str(error).split())))
            else:
                table.size[row], table.sums[row] = facts.size, facts.sums
                table.digest[row] = np.frombuffer(facts.digest, np.uint8)
                if layout.unlabelled:
                    table.pixels[row] = np.frombuffer(facts.pixels, np.uint8)
        return faults

    findings: list[Finding] = []
    with (
        warnings.catch_warnings(),
        progress(total=count, name="checking images", unit="images") as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        warnings.filterwarnings("ignore", module="PIL")  # of odd metadata, and of sizes that are checked here
        for faults in pool.map(read, range(0, count, _CHUNK)):
            findings += faults
            bar.update(min(_CHUNK, count - bar.n))
    return table, findings
