"""What a folder of images holds."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from rsd.machine.errors import UserError
from rsd.machine.words import counted
from rsd.sources.image_file import FORMATS, SUFFIXES
from rsd.sources.images import ImageFiles, LabelledImages, sample_indices
from rsd.sources.kinds.folder import Folder, FolderIndex, index_folder, numbered
from rsd.sources.layout import every_image

MOST_CLASSES = 20  # classes that are named with their counts
LOOKED_INTO = 2_000  # images whose kind of file and of colours is counted
_COLOURS = {"L": "grey", "1": "black and white", "P": "paletted", "LA": "grey with alpha", "RGBA": "RGB with alpha"}


@dataclass(frozen=True)
class Survey:
    """A folder of images, read once."""

    options: Folder
    """The source that reads it."""
    index: FolderIndex
    sizes: np.ndarray
    """int64 `[N, 2]`, height and width of all usable images."""
    copies: int
    """Images that are the same file as another one."""
    kinds: tuple[Counter[str], Counter[str]]
    """Kinds of file and of colours, of at most `LOOKED_INTO` images."""
    seconds: float
    """How long reading took."""

    @property
    def labelled(self) -> int:
        """Training images with a label."""
        return int((self.index.splits["train"].labels >= 0).sum())

    @property
    def unlabelled(self) -> int:
        return len(self.index.splits["train"].labels) - self.labelled

    @property
    def side(self) -> int:
        """The median of the images' shorter sides, in pixels."""
        return int(np.median(self.sizes.min(axis=1)))

    def training_images(self, size: int) -> LabelledImages:
        """The training images, served at `size` x `size` pixels."""
        train = self.index.splits["train"]
        crop_share = self.options.crop_share
        files = ImageFiles(self.options.root, train.paths, train.sizes, size=size, crop_share=crop_share)
        return LabelledImages(files, train.labels, self.index.classes)


def survey(root: Path, labels: Path | None) -> Survey:
    """Read every image below `root` once; UserError without a folder, images, or two classes that something names."""
    if not root.is_dir():
        raise UserError(f"expected a folder of images at {root}, found none; correct the path")
    listed = every_image(root)
    if not listed.unlabelled:
        others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(listed.ignored.items()))
        raise UserError(
            f"expected images ({', '.join(SUFFIXES)}) in {root}, found {others or 'nothing'}; "
            "correct the path, or convert them"
        )
    if labels is None and all("/" not in path for path in listed.unlabelled):
        raise UserError(
            f"expected one folder of images per class in {root}, found {counted(len(listed.unlabelled), 'image')} "
            "directly in it; sort them into folders, or name their classes in a table: --labels labels.csv"
        )
    start = perf_counter()
    options = Folder(root=root, labels=labels, on_bad="skip")
    index = index_folder(options)
    seconds = perf_counter() - start
    parts = index.splits.values()
    digests = np.concatenate([part.digests for part in parts])
    return Survey(
        options.model_copy(update={"on_bad": "skip" if index.findings else "stop"}),
        index,
        np.concatenate([part.sizes for part in parts]).astype(np.int64),
        len(digests) - len(np.unique(digests, axis=0)),
        _kinds(root, [path for part in parts for path in part.paths]),
        seconds,
    )


def _kinds(root: Path, paths: list[str]) -> tuple[Counter[str], Counter[str]]:
    formats, colours = Counter[str](), Counter[str]()
    for row in sample_indices(len(paths), LOOKED_INTO):
        with Image.open(root / paths[row], formats=FORMATS) as image:  # the header alone
            formats[image.format or "unknown"] += 1
            colours[_COLOURS.get(image.mode, image.mode)] += 1
    return formats, colours


def described(images: Survey) -> Iterator[str]:
    """What a folder holds, line by line."""
    index, options = images.index, images.options
    labels = np.concatenate([part.labels for part in index.splits.values()])
    counts = np.bincount(labels[labels >= 0], minlength=len(index.classes))
    without = f", {images.unlabelled:,} without" if images.unlabelled else ", none without"
    yield f"{options.root}: {counts.sum():,} images with a label in {len(index.classes)} classes{without}"
    shown = [f"{name} {count:,}" for name, count in zip(index.classes, counts, strict=True)][:MOST_CLASSES]
    more = len(index.classes) - len(shown)
    yield "  classes: " + ", ".join(shown) + (f" and {more} more" if more else "")
    test = len(index.splits["test"].labels)
    splits = ", ".join(f"{name} {len(part.labels):,}" for name, part in index.splits.items())
    yield f"  splits: {splits}; one test image is {100 / test:.2g} points of accuracy"
    sides = images.sizes.min(axis=1)
    yield f"  shorter side: {sides.min():,} to {sides.max():,} pixels, half of them up to {images.side:,}"
    tiny, huge = (sides < images.side / 4).sum(), (sides > images.side * 4).sum()
    if tiny or huge:
        yield f"  odd sizes: {tiny:,} under a quarter of that, {huge:,} over four times that"
    formats, colours = (", ".join(f"{name} {count:,}" for name, count in kind.most_common()) for kind in images.kinds)
    among = f", of {LOOKED_INTO:,} images" if len(images.sizes) > LOOKED_INTO else ""
    yield f"  files: {formats}; colours: {colours}{among} (all become RGB)"
    if images.copies:
        yield f"  copies: {counted(images.copies, 'image')} the same as another file; a split keeps them together"
    if index.labelled_copies:
        yield f"  left out {counted(index.labelled_copies, 'image')} without a label, the same as labelled ones"
    if index.findings:
        yield f"  left out, since unusable:\n{numbered(index.findings[:MOST_CLASSES], None)}"
        if len(index.findings) > MOST_CLASSES:
            yield f"  and {len(index.findings) - MOST_CLASSES} more; `dvc repro prepare` lists all"
    if index.ignored:
        yield "  ignored: " + ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(index.ignored.items()))
