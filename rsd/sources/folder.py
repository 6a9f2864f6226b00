"""Anyone's image files, one folder per class; ImageNet-1k in its usual layout is one of them."""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.machine.files import written_aside
from rsd.machine.options import UserPath
from rsd.machine.progress import progress
from rsd.sources.image_file import BadImageError, decode, inspect
from rsd.sources.images import SourceOptions
from rsd.sources.layout import Finding, Layout, read_layout

__all__ = ["FolderIndex", "FolderOptions", "ImageIndex", "decode", "index_folder", "listed"]

_CHUNK = 32  # images per task of a thread
_SHOWN = 20  # findings at the terminal; all of them are in the file


class FolderOptions(SourceOptions):
    """`data.source: folder`; nothing is copied."""

    source: Literal["folder"]
    root: UserPath
    """`root/CLASS/*`, or `root/{train,val,test}/CLASS/*`. Of val and test one alone is the test split, as in ImageNet;
    validation images are then split off train."""
    size: int = Field(224, ge=8, le=1024)
    """Side in pixels at which the images are served."""
    crop_share: float = Field(0.875, gt=0, le=1)
    """Without augmentation: the central square of this share of the shorter side."""
    test: float = Field(0.2, gt=0, lt=0.5)
    """Share of the images that is the test split where the folder has none of its own; stratified by class."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What to do with images that cannot be used: name them all and stop, or name them and leave them out."""


class ImageIndex(NamedTuple):
    """Image files of one split."""

    paths: list[str]
    """Relative to the root, with slashes, sorted."""
    labels: np.ndarray
    """int64 `[N]`."""
    sizes: np.ndarray
    """int32 `[N, 2]`: height and width as shown, after EXIF's orientation."""
    digests: np.ndarray
    """uint8 `[N, 32]`: SHA-256 of each file."""


class FolderIndex(NamedTuple):
    """All that is kept of a folder of images."""

    splits: dict[str, ImageIndex]
    """train, validation and test."""
    classes: list[str]
    mean: list[float]
    """Of red, green and blue over the training images, in [0, 1]: exact over every pixel of the images shrunk by a
    whole factor to no less than the served size."""
    std: list[float]
    findings: list[str]
    """What was left out with `on_bad: skip`, one line each."""
    ignored: dict[str, int]
    """Files that are none of images, by suffix, and hidden ones."""


class _Files(NamedTuple):
    """One row per image file that a layout names, in the order of splits and classes."""

    paths: list[str]
    split: np.ndarray  # [N], position in splits
    label: np.ndarray  # [N], position in all classes
    size: np.ndarray  # int32 [N, 2]
    digest: np.ndarray  # uint8 [N, 32]
    sums: np.ndarray  # int64 [N, 7]; no pixels: the image cannot be used


def index_folder(
    options: FolderOptions, *, findings_file: Path | None = None, workers: int | None = None
) -> FolderIndex:
    """Read every image of a folder once, check it, and say which image is in which split.

    Nothing is written below the root. A class is left out as a whole if a split has no usable image of it. Of an
    image that is in two splits the one in train is left out (or in validation, if the other is in test); of one that
    has two labels, all. Copies of an image within a class stay, and stay together when a split is split.

    Args:
        findings_file: where all findings are written, one per line; removed if there are none.
        workers: threads; cores + 4, at most 32, if None: some of them wait for the disk. The result does not depend on
            it. (Threads, because Pillow decodes outside of Python's lock and they share their memory: on two cores they
            were faster than processes at 500 and 2,000 pixels; at 64, now one and now the other, by up to a third.)

    Raises:
        UserError: the folder is laid out in another way, something in it cannot be used and `on_bad` is `stop`, or
            less than two classes are left.
    """
    layout = read_layout(options.root)
    splits = list(layout.files)
    classes = sorted(set().union(*layout.files.values()))
    files, bad = _inspect_all(layout, classes, options, workers)
    findings = [*layout.findings, *bad]
    usable = files.sums[:, 0] > 0
    identity = _identities(files.digest, usable)
    findings += _duplicates(files, identity, usable)
    needed = 4 - len(splits)  # parts that train is cut into, each of which takes an image of every class
    kept, missing = _whole_classes(layout, classes, files, identity, usable, needed)
    findings += missing
    lines = [str(finding) for finding in sorted(findings)]
    _write_findings(findings_file, lines)
    if lines and options.on_bad == "stop":
        raise UserError(
            f"expected a folder of images that can all be used in {options.root}, found {len(lines)} to correct, or to "
            f"leave out by data.on_bad: skip:\n{listed(lines, findings_file)}"
        )
    if len(kept) < 2:
        raise UserError(
            f"expected at least two classes of usable images in {options.root}, found {len(kept)}; correct them"
            + (f":\n{listed(lines, findings_file)}" if lines else "")
        )
    number = np.full(len(classes), -1)
    number[kept] = np.arange(len(kept))
    files = files._replace(label=number[files.label])
    rows = _split(files, identity, usable & (files.label >= 0), splits, options)
    mean, std = _statistics(files.sums[rows["train"]])
    return FolderIndex(
        {name: _index(files, part) for name, part in rows.items()},
        [classes[c] for c in kept],
        mean,
        std,
        lines,
        layout.ignored,
    )


def _inspect_all(
    layout: Layout, classes: list[str], options: FolderOptions, workers: int | None
) -> tuple[_Files, list[Finding]]:
    position = {name: c for c, name in enumerate(classes)}
    paths, split, label = [], [], []
    for s, by_class in enumerate(layout.files.values()):
        for name, images in by_class.items():
            paths += images
            split += [s] * len(images)
            label += [position[name]] * len(images)
    count = len(paths)
    files = _Files(
        paths,
        np.array(split, np.int8),
        np.array(label, np.int64),
        np.zeros((count, 2), np.int32),
        np.zeros((count, 32), np.uint8),
        np.zeros((count, 7), np.int64),
    )
    findings: list[Finding] = []

    def read(start: int) -> list[Finding]:
        """Fill rows of `files` of its own; no two threads write the same."""
        found = []
        for row in range(start, min(start + _CHUNK, count)):
            try:
                size, digest, sums = inspect(options.root / paths[row], served=options.size)
            except BadImageError as error:
                found.append(Finding(paths[row], " ".join(str(error).split())))
            else:
                files.size[row], files.digest[row], files.sums[row] = size, np.frombuffer(digest, np.uint8), sums
        return found

    with (
        warnings.catch_warnings(),
        progress(total=count, name="checking images", unit="images") as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        warnings.filterwarnings("ignore", module="PIL")  # of odd metadata, and of sizes that are checked here
        for found in pool.map(read, range(0, count, _CHUNK)):
            findings += found
            bar.update(min(_CHUNK, count - bar.n))
    return files, findings


def _identities(digests: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """For each row the first row with the same digest, int64 `[N]`; itself where it cannot be used."""
    words = digests.view(np.uint64)
    order = np.lexsort((np.arange(len(words)), *words.T))
    # The first of each run of equal digests, found without a dict of a million keys.
    starts = np.ones(len(order), bool)
    starts[1:] = (words[order][1:] != words[order][:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    return np.where(usable, first, np.arange(len(order)))


def _duplicates(files: _Files, identity: np.ndarray, usable: np.ndarray) -> list[Finding]:
    """Images in two splits or with two labels; clears their rows in `usable`."""
    findings = []
    for rows in _groups(identity):
        best = files.split[rows].max()  # test is worth more than validation, and both more than train
        inside = rows[files.split[rows] == best]
        for row in rows[files.split[rows] != best]:
            findings.append(Finding(files.paths[row], f"the same image as {files.paths[inside[0]]}, in another split"))
            usable[row] = False
        labels = files.label[inside]
        if (labels != labels[0]).any():
            for row in inside:
                other = inside[labels != files.label[row]][0]
                findings.append(Finding(files.paths[row], f"the same image as {files.paths[other]}, of another class"))
                usable[row] = False
    return findings


def _groups(identity: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each image that is there more than once."""
    repeated = np.flatnonzero(np.bincount(identity, minlength=1) > 1)
    members = np.flatnonzero(np.isin(identity, repeated))
    members = members[np.argsort(identity[members], kind="stable")]
    return iter(np.split(members, np.flatnonzero(np.diff(identity[members])) + 1) if len(members) else [])


def _whole_classes(
    layout: Layout, classes: list[str], files: _Files, identity: np.ndarray, usable: np.ndarray, needed: int
) -> tuple[list[int], list[Finding]]:
    """The classes of which every split has usable images, and why the others have not."""
    findings = []
    kept = list(range(len(classes)))
    for s, (split, by_class) in enumerate(layout.files.items()):
        least = needed if split == "train" else 1
        rows = usable & (files.split == s)
        # Copies of an image go into one part together, so they count once.
        different = np.unique(np.stack([files.label[rows], identity[rows]]), axis=1)[0]
        counts = np.bincount(different, minlength=len(classes))
        for c, name in enumerate(classes):
            if counts[c] >= least:
                continue
            kept = [k for k in kept if k != c]
            folder = layout.folders[split]
            if name not in by_class:
                reason = f"no such class in {folder}, but in another split"
            elif not by_class[name]:
                reason = "an empty class: no image in it"
            elif least == 1 or not counts[c]:
                reason = f"no usable image among {len(by_class[name])}"
            else:
                reason = f"too few images: {counts[c]} different ones, at least {least} are needed to split them"
            findings.append(Finding(f"{folder}{name}", reason))
    return kept, findings


def _split(
    files: _Files, identity: np.ndarray, usable: np.ndarray, splits: list[str], options: FolderOptions
) -> dict[str, np.ndarray]:
    """Rows of train, validation and test."""
    rows = {name: np.flatnonzero(usable & (files.split == s)) for s, name in enumerate(splits)}
    for name, share in (("test", options.test), ("validation", options.validation)):
        if name not in rows:
            left, taken = _split_off(rows["train"], files.label, identity, share, options.seed)
            rows[name] = taken
            if name == "test" or options.hold_out:
                rows["train"] = left
    if options.train_share < 1:
        rows["train"] = _split_off(rows["train"], files.label, identity, options.train_share, options.seed)[1]
    return {name: rows[name] for name in ("train", "validation", "test")}


def _split_off(
    rows: np.ndarray, label: np.ndarray, identity: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stay and rows split off: `share` of every class, at least one image of each."""
    needs("data", "sklearn")
    from sklearn.model_selection import (
        train_test_split,  # seconds to import, and every stage that reads params would pay
    )

    taken = []
    # Class by class, so that images that come or go in one class move none of another.
    for members in np.split(rows, np.flatnonzero(np.diff(label[rows])) + 1):
        different = np.unique(identity[members])
        count = max(1, round(share * len(different)))
        chosen = train_test_split(different, test_size=count, random_state=seed)[1]
        taken.append(members[np.isin(identity[members], chosen)])
    taken_rows = np.concatenate(taken)
    return np.setdiff1d(rows, taken_rows), taken_rows


def _index(files: _Files, rows: np.ndarray) -> ImageIndex:
    order = sorted(rows.tolist(), key=files.paths.__getitem__)
    return ImageIndex([files.paths[row] for row in order], files.label[order], files.size[order], files.digest[order])


def _statistics(sums: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in [0, 1], from int64 `[N, 7]`; integers until the last division."""
    pixels, *totals = (int(total) for total in sums.sum(axis=0))
    means = [total / (255 * pixels) for total in totals[:3]]
    variances = [
        (pixels * square - total**2) / (255 * pixels) ** 2 for total, square in zip(totals[:3], totals[3:], strict=True)
    ]
    return means, [sqrt(variance) for variance in variances]


def _write_findings(path: Path | None, lines: list[str]) -> None:
    if path and lines:
        with written_aside(path) as aside:
            aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    elif path:
        path.unlink(missing_ok=True)


def listed(lines: list[str], path: Path | None) -> str:
    """Findings, numbered, one per line; cut short only if all of them are in a file."""
    shown = lines[:_SHOWN] if path else lines
    width = len(str(len(shown)))
    text = "\n".join(f"  {number:{width}}. {line}" for number, line in enumerate(shown, 1))
    return f"{text}\n  and {len(lines) - len(shown)} more, all in {path}" if len(shown) < len(lines) else text
