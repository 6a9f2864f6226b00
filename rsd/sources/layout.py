"""How a folder of images is laid out: its splits, its classes, and what cannot be used."""

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rsd.machine.errors import UserError
from rsd.sources.image_file import SUFFIXES

_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_LOOP = "a link to a folder that holds it; remove it"
_UNLABELLED = ("unlabelled", "unlabeled")


class Finding(NamedTuple):
    """A file or folder that cannot be used, and why. The path is relative to the root."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.reason}"


class Layout(NamedTuple):
    """The image files of a folder, by split and class; they are listed, not read."""

    files: dict[str, dict[str, list[str]]]
    """Split (train, validation, test; or only train) -> class -> paths relative to the root, sorted."""
    folders: dict[str, str]
    """Split -> its folder below the root, with a slash at its end; empty where the root holds the classes."""
    findings: list[Finding]
    ignored: dict[str, int]
    """Number of other files by suffix; hidden files and folders count as `hidden`."""
    unlabelled: list[str]
    """Paths of the images without a label, relative to the root, sorted."""


class _Listed(NamedTuple):
    folders: list[str]
    images: list[str]


def shown(path: str) -> str:
    """`path` on one line and in UTF-8, whatever is in it."""
    return path.encode("unicode_escape").decode() if _is_odd(path) else path


def _is_odd(name: str) -> bool:
    """Whether a name has control characters, breaks of lines, or bytes that are not UTF-8."""
    return not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)


def read_layout(root: Path) -> Layout:
    """List `root/CLASS/**` or `root/{train,val,test}/CLASS/**`, and `root/unlabelled/**` beside either.

    A folder named train, val, validation, valid or test (in any case) is a split if it holds folders, and a class
    if it does not. If only one of `val/` and `test/` exists, it is the test split.

    Raises:
        UserError: the root is laid out in another way.
    """
    return _Reader(root).read()


def every_image(root: Path) -> Layout:
    """All images below `root`, in whatever folders, as a layout without any class; UserError without such a folder."""
    reader = _Reader(root)
    images = reader._images("")
    return Layout({}, {}, reader.findings, dict(reader.ignored), images)


class _Reader:
    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"expected a folder of images in {root}, found no such folder; correct data.root")
        self.root = root
        self.findings: list[Finding] = []
        self.ignored: Counter[str] = Counter()

    def read(self) -> Layout:
        top = self._list("")
        if not top.folders:
            raise UserError(
                f"expected one folder of images per class in {self.root}, found no folder; correct data.root"
            )
        unlabelled: list[str] = []
        for name in [name for name in top.folders if name.lower() in _UNLABELLED]:
            top.folders.remove(name)
            images = self._images(f"{name}/")
            unlabelled += images
            if not images:
                self.findings.append(Finding(name, "no image in it; put images without a label there, or remove it"))
        folders = self._splits(top)
        files = {split: self._classes(folder, top) for split, folder in folders.items()}
        return Layout(files, folders, self.findings, dict(self.ignored), unlabelled)

    def _splits(self, top: _Listed) -> dict[str, str]:
        """Which folder is which split."""
        named = [name for name in top.folders if name.lower() in _SPLITS]
        # Another reader looks into them, whose findings do not count.
        splits = [name for name in named if _Reader(self.root)._list(f"{name}/").folders]
        others = [name for name in top.folders if name not in splits]
        if not splits:
            if len(named) == len(top.folders) and any(_SPLITS[name.lower()] == "train" for name in named):
                raise UserError(
                    f"expected class folders in {self.root / named[0]}, found images directly in it; "
                    "make one folder per class"
                )
            return {"train": ""}
        if others:
            raise UserError(
                f"expected in {self.root} either one folder per class, or train/, val/ and test/ with one folder per "
                f"class each, found {splits[0]}/ with folders in it beside {others[0]}/; move one of them away, or set "
                "data.root to a folder of links to those that belong together"
            )
        by_split: dict[str, str] = {}
        for name in splits:
            split = _SPLITS[name.lower()]
            if split in by_split:
                raise UserError(
                    f"expected one folder for the {split} split in {self.root}, found {by_split[split]}{name}/; "
                    "move one of them away"
                )
            by_split[split] = f"{name}/"
        if set(by_split) == {"train"}:
            raise UserError(
                f"expected val/ or test/ beside {by_split['train']} in {self.root}, found neither; to have test images "
                f"split off set data.root to {self.root / by_split['train']}"
            )
        if "train" not in by_split:
            raise UserError(f"expected train/ in {self.root}, found only {', '.join(by_split.values())}; add it")
        if "test" not in by_split:  # as in ImageNet, whose validation images everyone tests on
            by_split["test"] = by_split.pop("validation")
        return {split: by_split[split] for split in ("train", "validation", "test") if split in by_split}

    def _classes(self, folder: str, top: _Listed) -> dict[str, list[str]]:
        """The images of one split, by class."""
        listed = self._list(folder) if folder else top
        if listed.images:
            count, example = len(listed.images), listed.images[0]
            self.findings.append(Finding(folder or ".", f"{count} images outside of any class, such as {example}"))
        return {name: self._images(f"{folder}{name}/") for name in listed.folders}

    def _images(self, folder: str) -> list[str]:
        """The images of a class, in its folder and in the folders below it, sorted."""
        images: list[str] = []
        waiting: list[tuple[str, frozenset[str]]] = [(folder, frozenset())]
        while waiting:
            place, above = waiting.pop()
            real = os.path.realpath(self.root / place)
            if real in above:
                self.findings.append(Finding(place.rstrip("/"), _LOOP))
                continue
            inside = self._list(place)
            images += [f"{place}{image}" for image in inside.images]
            waiting += [(f"{place}{inner}/", above | {real}) for inner in inside.folders]
        return sorted(images)

    def _list(self, folder: str) -> _Listed:
        """The folders and images directly in a folder below the root (empty, or with a slash at its end), sorted."""
        folders: list[str] = []
        images: list[str] = []
        place = self.root / folder
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    suffix = os.path.splitext(entry.name)[1].lower()
                    try:
                        is_folder = entry.is_dir()
                    except OSError as error:  # a link to itself, for one
                        self.findings.append(Finding(path, f"cannot be read: {error.strerror}"))
                        continue
                    if entry.name.startswith("."):
                        self.ignored["hidden"] += 1
                    elif not is_folder and suffix not in SUFFIXES:
                        self.ignored[shown(suffix) or "no suffix"] += 1
                    elif _is_odd(entry.name):
                        self.findings.append(Finding(path, "a name with control characters or not in UTF-8; rename it"))
                    elif is_folder and entry.is_symlink() and place.resolve().is_relative_to(os.path.realpath(entry)):
                        self.findings.append(Finding(path, _LOOP))
                    else:
                        (folders if is_folder else images).append(entry.name)
        except OSError as error:
            self.findings.append(Finding(folder.rstrip("/") or ".", f"cannot be listed: {error.strerror}"))
        return _Listed(sorted(folders), sorted(images))
