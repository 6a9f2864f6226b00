"""Anyone's image files, one folder per class; ImageNet-1k in its usual layout is an example."""

from math import sqrt
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from rsd.machine.errors import UserError
from rsd.machine.extras import needs
from rsd.machine.files import written_aside
from rsd.machine.options import UserPath
from rsd.sources.base import Source
from rsd.sources.exclusions import drop_labelled_copies, exclude_copies, identities, whole_classes
from rsd.sources.file_table import FileTable, inspect_all
from rsd.sources.image_file import SUFFIXES
from rsd.sources.images import DatasetRecord, write_index
from rsd.sources.label_file import labelled_layout, read_rows
from rsd.sources.labels import NO_LABEL, hide_labels
from rsd.sources.layout import read_layout

_SHOWN = 20  # findings at the terminal; all of them are in the file


class Folder(Source):
    """`data.source: folder`; nothing is copied."""

    root: UserPath
    """`root/CLASS/**`, or `root/{train,val,test}/CLASS/**`. If only one of `val/` and `test/` exists, it is the test
    split, as in ImageNet, and validation images are split off `train/`. Images in `root/unlabelled/` have no label."""
    labels: UserPath | None = None
    """A table of labels, for images that lie in no class folders: CSV with the first line `path,class`, paths relative
    to the root. Images that it does not name have no label. null: the folders are the classes."""
    size: int = Field(224, ge=8, le=1024)
    """Side in pixels at which the images are served."""
    crop_share: float = Field(0.875, gt=0, le=1)
    """Without augmentation: the central square of this share of the shorter side; 1 is the largest square. timm calls
    it crop_pct. Devices cut the same square."""
    test: float = Field(0.2, gt=0, lt=0.5)
    """Share of the images in the test split, if the folder has no test split of its own; stratified by class."""
    on_bad: Literal["stop", "skip"] = "stop"
    """What to do with images that cannot be used: name them all and stop, or name them and leave them out."""

    @property
    def watched(self) -> list[Path]:
        return [self.root, *([self.labels] if self.labels else [])]

    def prepare(self, out: Path) -> DatasetRecord:
        index = index_folder(self, findings_file=(file := out / "findings.txt"))
        if index.findings:
            print(f"left out of {self.root}, since data.on_bad is skip:\n{numbered(index.findings, file)}")
        if index.ignored:
            suffixes = ", ".join(f"{count} {suffix}" for suffix, count in sorted(index.ignored.items()))
            print(f"ignored in {self.root}, not {', '.join(SUFFIXES)}, or hidden: {suffixes}")
        train = index.splits["train"]
        known = np.flatnonzero(train.labels >= 0)
        of_teacher = ImageIndex(
            [train.paths[row] for row in known], train.labels[known], train.sizes[known], train.digests[known]
        )
        checksums = {
            f"{name}/{file}": digest
            for name, part in ({"teacher": of_teacher} | index.splits).items()
            for file, digest in write_index(out / name, *part).items()
        }
        return DatasetRecord(
            source=self.source,
            kept="files",
            root=str(self.root),
            crop_share=self.crop_share,
            classes=index.classes,
            height=self.size,
            width=self.size,
            channels=3,
            mean=index.mean,
            std=index.std,
            counts={name: len(part.labels) for name, part in index.splits.items()},
            labelled=len(known),
            labelled_copies=index.labelled_copies,
            left_out=index.findings,
            checksums=checksums,
        )


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
    """Which image of a folder is in which split, and what describes them."""

    splits: dict[str, ImageIndex]
    """train, validation and test; and teacher, where it has images of its own."""
    classes: list[str]
    mean: list[float]
    """Of red, green and blue over the training images, in [0, 1]: exact over every pixel of the images shrunk by a
    whole factor to no less than the served size."""
    std: list[float]
    findings: list[str]
    """What was left out with `on_bad: skip`, one line each."""
    ignored: dict[str, int]
    """Hidden files, and files that are no images, by suffix."""
    labelled_copies: int
    """Images without a label that were left out, since an image with a label has the same pixels."""


def index_folder(options: Folder, *, findings_file: Path | None = None, workers: int | None = None) -> FolderIndex:
    """Read every image of a folder once, check it, and put it into a split.

    Nothing is written below the root. A class with no usable image in a split is left out. An image in two splits
    stays in the test split, or else in the validation split. An image with two labels is left out. Copies of an image
    within a class stay, and a split keeps them together.

    Args:
        findings_file: where all findings are written, one per line; removed if there are none.
        workers: threads, see `inspect_all`.

    Raises:
        UserError: the folder is laid out in another way, something in it cannot be used and `on_bad` is `stop`, or
            less than two classes are left.
    """
    root, table_file = options.root, options.labels
    layout = labelled_layout(root, read_rows(table_file), table_file) if table_file else read_layout(root)
    splits = list(layout.files)
    classes = sorted(set().union(*layout.files.values()))
    table, faults = inspect_all(options.root, layout, classes, served=options.size, workers=workers)
    usable = table.sums[:, 0] > 0
    identity = identities(table.digest, usable)
    copies = exclude_copies(table, identity, usable)
    labelled_copies = drop_labelled_copies(table, usable)
    complete, incomplete = whole_classes(layout, classes, table, identity, usable, parts=4 - len(splits))
    lines = [str(finding) for finding in sorted([*layout.findings, *faults, *copies, *incomplete])]
    if findings_file and lines:
        with written_aside(findings_file) as aside:
            aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    elif findings_file:
        findings_file.unlink(missing_ok=True)
    if lines and options.on_bad == "stop":
        raise UserError(
            f"expected a folder of images that can all be used in {options.root}, found {len(lines)} to correct, or to "
            f"leave out by data.on_bad: skip:\n{numbered(lines, findings_file)}"
        )
    if len(complete) < 2:
        raise UserError(
            f"expected at least two classes of usable images in {options.root}, found {len(complete)}; correct them"
            + (f":\n{numbered(lines, findings_file)}" if lines else "")
        )
    number = np.full(len(classes), -1)
    number[complete] = np.arange(len(complete))
    without = table.split < 0
    table = table._replace(label=np.where(without, NO_LABEL, number[table.label]))
    rows = _split(table, identity, usable & (table.label >= 0), splits, options)
    rows["train"] = np.concatenate([rows["train"], np.flatnonzero(usable & without)])
    mean, std = _statistics(table.sums[rows["train"]])
    names = [classes[c] for c in complete]
    indices = {name: _index(table, part) for name, part in rows.items()}
    if options.labelled is not None:
        train = indices["train"]
        labels = hide_labels(train.labels, options.labelled, names, seed=options.seed)
        indices["train"] = train._replace(labels=labels)
    return FolderIndex(indices, names, mean, std, lines, layout.ignored, labelled_copies)


def _split(
    table: FileTable, identity: np.ndarray, usable: np.ndarray, splits: list[str], options: Folder
) -> dict[str, np.ndarray]:
    """Rows of train, validation and test; and of the teacher's, where it has images of its own."""
    rows = {name: np.flatnonzero(usable & (table.split == s)) for s, name in enumerate(splits)}
    for name, share in (("test", options.test), ("validation", options.validation)):
        if name not in rows:
            rest, part = _split_off(rows["train"], table.label, identity, share, options.seed)
            rows[name] = part
            if name == "test" or options.hold_out:
                rows["train"] = rest
    if options.train_share < 1:
        rows["train"] = _split_off(rows["train"], table.label, identity, options.train_share, options.seed)[1]
    if options.teacher_share:
        rows["train"], rows["teacher"] = _split_off(
            rows["train"], table.label, identity, options.teacher_share, options.seed
        )
    return {name: rows[name] for name in ("train", "validation", "test", "teacher") if name in rows}


def _split_off(
    rows: np.ndarray, label: np.ndarray, identity: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stay and rows split off: `share` of every class, at least one image of each."""
    needs("data", "sklearn")
    from sklearn.model_selection import train_test_split  # late, as in arrays.py

    parts = []
    # Class by class, so that new images of one class change no other class's split.
    for members in np.split(rows, np.flatnonzero(np.diff(label[rows])) + 1):
        different = np.unique(identity[members])
        count = max(1, round(share * len(different)))
        part = train_test_split(different, test_size=count, random_state=seed)[1]
        parts.append(members[np.isin(identity[members], part)])
    part_rows = np.concatenate(parts)
    return np.setdiff1d(rows, part_rows), part_rows


def _index(table: FileTable, rows: np.ndarray) -> ImageIndex:
    order = sorted(rows.tolist(), key=table.paths.__getitem__)
    return ImageIndex([table.paths[row] for row in order], table.label[order], table.size[order], table.digest[order])


def _statistics(sums: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in [0, 1], from int64 `[N, 7]`; integers until the last division."""
    pixels, *totals = (int(total) for total in sums.sum(axis=0))
    means = [total / (255 * pixels) for total in totals[:3]]
    variances = [
        (pixels * square - total**2) / (255 * pixels) ** 2 for total, square in zip(totals[:3], totals[3:], strict=True)
    ]
    return means, [sqrt(variance) for variance in variances]


def numbered(lines: list[str], path: Path | None) -> str:
    """Findings, numbered, one per line; cut short only if all of them are in a file."""
    shown = lines[:_SHOWN] if path else lines
    width = len(str(len(shown)))
    text = "\n".join(f"  {number:{width}}. {line}" for number, line in enumerate(shown, 1))
    return f"{text}\n  and {len(lines) - len(shown)} more, all in {path}" if len(shown) < len(lines) else text
