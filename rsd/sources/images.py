"""Labelled images, in memory, memory-mapped or as files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from rsd.machine.errors import UserError
from rsd.machine.faults import read_checked
from rsd.machine.files import sha256, written_aside
from rsd.run.names import DATASET, DIGESTS, IMAGE_ARRAY, IMAGE_LABELS, PATHS, SIZES
from rsd.run.records import DatasetRecord
from rsd.sources.image_file import decode


class Images(Protocol):
    """A sequence of images that are served at one size; a plain uint8 array `[N, H, W, C]` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, H, W, C)` as served."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """The images of a slice or of int64 `[B]`, not augmented, uint8 `[B, H, W, C]`."""
        ...


def sample(images: Images, count: int) -> np.ndarray:
    """At most `count` random images, uint8 `[N, H, W, C]`, the same at each call."""
    return images[np.random.default_rng(0).permutation(len(images))[:count]]


def sample_indices(images: int, count: int) -> np.ndarray:
    """The indices of at most `count` of so many images, int64 `[N]`, in order and the same at each call."""
    return np.sort(np.random.default_rng(0).permutation(images)[:count])


class ArrayImages:
    """Images in an array uint8 `[N, H, W, C]`, served at `size` x `size` pixels; None serves them as they are."""

    def __init__(self, array: Any, size: int | None = None) -> None:
        height, width = array.shape[1:3]
        self.array = array
        self.side = (size, size) if size else (height, width)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.array), *self.side, self.array.shape[3])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any, /) -> np.ndarray:
        pixels = np.asarray(self.array[index])
        return pixels if pixels.shape[1:3] == self.side else _resized(pixels, self.side)

    def sizes(self, index: np.ndarray) -> np.ndarray:
        return np.tile(np.array(self.array.shape[1:3], np.int64), (len(index), 1))


def _resized(images: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """Images at another size, bilinear; antialiased where that is smaller."""
    resized = np.empty((len(images), *side, images.shape[3]), np.uint8)
    for row, pixels in enumerate(images):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        resized[row] = np.asarray(image.resize(side[::-1], Image.Resampling.BILINEAR)).reshape(resized[row].shape)
    return resized


class ImageFiles:
    """Image files below `root`, decoded when they are asked for and served at `size` x `size` pixels.

    Without augmentation that is the central square of `crop_share` of the shorter side.

    Args:
        paths: relative to the root.
        sizes: height and width of each as shown, `[N, 2]`.
    """

    def __init__(self, root: Path, paths: list[str], sizes: np.ndarray, *, size: int, crop_share: float) -> None:
        self.root = root
        self.paths = np.array([os.fsencode(path) for path in paths])  # no objects: worker processes share the memory
        self.originals = sizes.astype(np.int64)
        self.size = size
        self.crop_share = crop_share

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.paths), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any, /) -> np.ndarray:
        rows = np.arange(len(self))[index]
        sides = self.originals[rows]
        square = self.crop_share * sides.min(axis=1, keepdims=True)
        boxes = np.concatenate([(sides - square) / 2, square, square], axis=1)
        served = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for row, (image, (top, left, height, width)) in enumerate(self.decoded(rows, boxes)):
            box = (left, top, min(left + width, image.width), min(top + height, image.height))
            served[row] = np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))
        return served

    def sizes(self, index: np.ndarray) -> np.ndarray:
        return self.originals[index]

    def decoded(self, index: np.ndarray, boxes: np.ndarray) -> Iterator[tuple[Image.Image, np.ndarray]]:
        """Each image and its box (top, left, height, width, float64 `[B, 4]`) in the pixels at which it is decoded."""
        for number, box in zip(index, boxes, strict=True):
            # A JPEG whose part is served at half of its size is decoded at half of its size, which is faster.
            image = decode(self.root / os.fsdecode(self.paths[number]), reduce=min(box[2:]) / self.size)
            yield image, box * np.tile((image.height, image.width) / self.originals[number], 2)


class LabelledImages(NamedTuple):
    """Images `[N, H, W, C]` as served, labels int64 `[N]` (-1 where there is none), and the names of the classes."""

    images: Images
    labels: np.ndarray
    classes: list[str]


def write_arrays(folder: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """Write one split as `images.npy` and `labels.npy`; SHA-256 of each."""
    with written_aside(folder) as aside:
        aside.mkdir()
        np.save(aside / IMAGE_ARRAY, np.ascontiguousarray(images))
        np.save(aside / IMAGE_LABELS, labels)
    return {name: sha256(folder / name) for name in (IMAGE_ARRAY, IMAGE_LABELS)}


def write_index(
    folder: Path, paths: list[str], labels: np.ndarray, sizes: np.ndarray, digests: np.ndarray
) -> dict[str, str]:
    """Write one split as an index of files: `paths.txt`, `labels.npy`, `sizes.npy`, `digests.npy`; SHA-256 of each."""
    with written_aside(folder) as aside:
        aside.mkdir()
        (aside / PATHS).write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        for name, values in (("labels", labels), ("sizes", sizes), ("digests", digests)):
            np.save(aside / f"{name}.npy", values)
    return {name: sha256(folder / name) for name in (PATHS, IMAGE_LABELS, SIZES, DIGESTS)}


def read_record(data: Path) -> DatasetRecord:
    """The record of prepared data; UserError where it is missing or damaged."""
    then = "run `dvc repro -f -s prepare`"
    return read_checked(data / DATASET, DatasetRecord, what="a record of prepared data", then=then)


def read_split(data: Path, split: str) -> LabelledImages:
    """A prepared split, memory-mapped or from its files; UserError where it is missing or its parts do not match."""
    folder = data / split
    if not (folder / IMAGE_LABELS).is_file():
        raise UserError(f"expected a prepared split in {folder}, found none; run `dvc repro prepare`")
    record = read_record(data)
    labels = np.load(folder / IMAGE_LABELS, allow_pickle=False)
    images: Images
    if record.kept == "files":
        assert record.root is not None
        assert record.crop_share is not None
        paths = (folder / PATHS).read_text(encoding="utf-8").split("\n")[:-1]
        sizes = np.load(folder / SIZES, allow_pickle=False)
        images = ImageFiles(Path(record.root), paths, sizes, size=record.height, crop_share=record.crop_share)
    else:
        array = np.load(folder / IMAGE_ARRAY, mmap_mode="r", allow_pickle=False)
        same = array.shape[1:3] == (record.height, record.width)
        images = ArrayImages(array, None if same else record.height)
    if len(images) != len(labels):
        raise UserError(
            f"expected one label per image in {folder}, found {len(labels)} labels for {len(images)} images; "
            "run `dvc repro prepare`"
        )
    return LabelledImages(images, labels, record.classes)
