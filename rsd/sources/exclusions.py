"""Which readable images cannot be used all the same: copies in several places, and classes that are too small."""

from collections.abc import Iterator

import numpy as np

from rsd.sources.file_table import FileTable
from rsd.sources.layout import Finding, Layout


def identities(digests: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """For each row the first row with the same digest, int64 `[N]`; itself where it cannot be used."""
    words = digests.view(np.uint64)
    order = np.lexsort((np.arange(len(words)), *words.T))
    # The first of each run of equal digests, without a dict of a million keys.
    starts = np.ones(len(order), bool)
    starts[1:] = (words[order][1:] != words[order][:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    return np.where(usable, first, np.arange(len(order)))


def exclude_copies(table: FileTable, identity: np.ndarray, usable: np.ndarray) -> list[Finding]:
    """Images in two splits or with two labels; clears their rows in `usable`. Images without a label are left alone."""
    findings = []
    for group in _groups(identity):
        rows = group[table.split[group] >= 0]
        if not len(rows):
            continue
        best = table.split[rows].max()  # test is worth more than validation, and both more than train
        inside = rows[table.split[rows] == best]
        for row in rows[table.split[rows] != best]:
            findings.append(Finding(table.paths[row], f"the same image as {table.paths[inside[0]]}, in another split"))
            usable[row] = False
        labels = table.label[inside]
        if (labels != labels[0]).any():
            for row in inside:
                other = inside[labels != table.label[row]][0]
                findings.append(Finding(table.paths[row], f"the same image as {table.paths[other]}, of another class"))
                usable[row] = False
    return findings


def drop_labelled_copies(table: FileTable, usable: np.ndarray) -> int:
    """How many images without a label have the pixels of one with a label; clears their rows in `usable`."""
    if not (table.split < 0).any():
        return 0
    same = identities(table.pixels, usable)
    copies = usable & (table.split < 0) & (table.split[same] >= 0)  # those with a label come first
    usable[copies] = False
    return int(copies.sum())


def _groups(identity: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each image that occurs more than once."""
    repeated = np.flatnonzero(np.bincount(identity, minlength=1) > 1)
    members = np.flatnonzero(np.isin(identity, repeated))
    members = members[np.argsort(identity[members], kind="stable")]
    return iter(np.split(members, np.flatnonzero(np.diff(identity[members])) + 1) if len(members) else [])


def whole_classes(
    layout: Layout, classes: list[str], table: FileTable, identity: np.ndarray, usable: np.ndarray, *, parts: int
) -> tuple[list[int], list[Finding]]:
    """The classes with usable images in every split, one in each of so many `parts` of train; what others lack."""
    findings = []
    complete = list(range(len(classes)))
    for s, (split, by_class) in enumerate(layout.files.items()):
        least = parts if split == "train" else 1
        rows = usable & (table.split == s)
        # Copies of an image go into one part together, so they count once.
        different = np.unique(np.stack([table.label[rows], identity[rows]]), axis=1)[0]
        counts = np.bincount(different, minlength=len(classes))
        for c, name in enumerate(classes):
            if counts[c] >= least:
                continue
            complete = [number for number in complete if number != c]
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
    return complete, findings
