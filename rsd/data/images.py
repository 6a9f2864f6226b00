"""Labelled images, in memory, memory-mapped or as files, and the record that describes a prepared data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, Field

from rsd.data.image_files import ImageFiles
from rsd.errors import UserError
from rsd.files import read_json, sha256, written_aside
from rsd.options import Options

if TYPE_CHECKING:
    from torch import Tensor


class SourceOptions(Options):
    """What every source of images has in common."""

    validation: float = Field(0.1, gt=0, lt=0.5)
    """Share of the training images that selects; stratified by class."""
    hold_out: bool = True
    """Whether training leaves the validation images out; false only to follow a protocol without validation."""
    seed: int = Field(0, ge=0)
    """Seed of the split."""


class Images(Protocol):
    """A sequence of images that are served at one size; a plain uint8 array `[N, H, W, C]` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, H, W, C)` as served."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """A slice or int64 `[B]` of images, not augmented, uint8 `[B, H, W, C]`."""
        ...


class CroppedImages(Images, Protocol):
    """Images of which parts can be served."""

    def sizes(self, index: np.ndarray) -> np.ndarray:
        """Height and width of the originals, int64 `[B, 2]`."""
        ...

    def crops(self, index: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """One part of each image, uint8 `[B, H, W, C]`; `boxes` are top, left, height, width in the original's
        pixels, float64 `[B, 4]`."""
        ...


class ArrayImages:
    """Images of one size in an array uint8 `[N, H, W, C]`, served at `size` x `size` pixels or as they are.

    Torch is imported where it resizes: stages that do not compute with it need not wait for it.
    """

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
        picked = np.asarray(self.array[index])
        if picked.shape[1:3] == self.side:
            return picked
        from torch.nn.functional import interpolate

        return _bytes(interpolate(_maps(picked), self.side, mode="bilinear", antialias=True, align_corners=False))

    def sizes(self, index: np.ndarray) -> np.ndarray:
        return np.tile(np.array(self.array.shape[1:3], np.int64), (len(index), 1))

    def crops(self, index: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        import torch
        from torch.nn.functional import grid_sample

        height, width = self.array.shape[1:3]
        # grid_sample counts from -1 to 1 over the whole image, pixel centres half a pixel in.
        rows = boxes[:, 0:1] + (np.arange(self.side[0]) + 0.5) / self.side[0] * boxes[:, 2:3]
        columns = boxes[:, 1:2] + (np.arange(self.side[1]) + 0.5) / self.side[1] * boxes[:, 3:4]
        y = torch.from_numpy(2 * rows / height - 1).float()[:, :, None].expand(-1, -1, self.side[1])
        x = torch.from_numpy(2 * columns / width - 1).float()[:, None, :].expand(-1, self.side[0], -1)
        grid = torch.stack([x, y], dim=3)
        return _bytes(
            grid_sample(_maps(self.array[index]), grid, mode="bilinear", padding_mode="border", align_corners=False)
        )


def _maps(images: np.ndarray) -> "Tensor":
    """uint8 `[B, H, W, C]` -> float32 `[B, C, H, W]`."""
    import torch

    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()


def _bytes(maps: "Tensor") -> np.ndarray:
    """Float `[B, C, H, W]` -> uint8 `[B, H, W, C]`."""
    return maps.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


class LabelledImages(NamedTuple):
    """Images `[N, H, W, C]` as served, labels int64 `[N]`, and the names of the classes."""

    images: Images
    labels: np.ndarray
    classes: list[str]


class DatasetRecord(BaseModel):
    """`dataset.json`: what a prepared data set is."""

    source: str
    kept: Literal["arrays", "files"] = "arrays"
    """Whether a split holds its images, or the paths of the files that do."""
    root: str | None = None
    """Of these paths."""
    crop_share: float | None = None
    """The central share of a file's shorter side that is served without augmentation."""
    classes: list[str]
    height: int
    """As served, as are width and channels."""
    width: int
    channels: int
    mean: list[float]
    """Channel means of the training split, in [0, 1]."""
    std: list[float]
    """Channel standard deviations of the training split, in [0, 1]."""
    counts: dict[str, int]
    """Images per split."""
    left_out: list[str] = []
    """Images that could not be used, and why."""
    checksums: dict[str, str]
    """SHA-256 of every file of a split."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels


def write_arrays(folder: Path, images: np.ndarray, labels: np.ndarray) -> dict[str, str]:
    """Write one split as `images.npy` and `labels.npy`; SHA-256 of each."""
    with written_aside(folder) as aside:
        aside.mkdir()
        np.save(aside / "images.npy", np.ascontiguousarray(images))
        np.save(aside / "labels.npy", labels)
    return {name: sha256(folder / name) for name in ("images.npy", "labels.npy")}


def write_index(
    folder: Path, paths: list[str], labels: np.ndarray, sizes: np.ndarray, digests: list[str]
) -> dict[str, str]:
    """Write one split as an index of files: `paths.txt`, `digests.txt`, `sizes.npy`, `labels.npy`; SHA-256 of each."""
    with written_aside(folder) as aside:
        aside.mkdir()
        (aside / "paths.txt").write_text("".join(f"{path}\n" for path in paths))
        (aside / "digests.txt").write_text("".join(f"{digest}\n" for digest in digests))
        np.save(aside / "sizes.npy", sizes)
        np.save(aside / "labels.npy", labels)
    return {name: sha256(folder / name) for name in ("paths.txt", "digests.txt", "sizes.npy", "labels.npy")}


def read_record(data: Path) -> DatasetRecord:
    return DatasetRecord.model_validate(read_json(data / "dataset.json"))


def read_split(data: Path, split: str) -> LabelledImages:
    """A prepared split, memory-mapped, or served from its files.

    Raises:
        UserError: the split is not there, or its images and labels do not belong together.
    """
    folder = data / split
    if not (folder / "labels.npy").is_file():
        raise UserError(f"expected a prepared split in {folder}, found none; run `dvc repro prepare`")
    record = read_record(data)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    images: Images
    if record.kept == "files":
        assert record.root is not None
        assert record.crop_share is not None
        paths = (folder / "paths.txt").read_text().splitlines()
        sizes = np.load(folder / "sizes.npy", allow_pickle=False)
        images = ImageFiles(Path(record.root), paths, sizes, size=record.height, crop_share=record.crop_share)
    else:
        array = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        same = array.shape[1:3] == (record.height, record.width)
        images = ArrayImages(array, None if same else record.height)
    if len(images) != len(labels):
        raise UserError(
            f"expected one label per image in {folder}, found {len(labels)} labels for {len(images)} images; "
            "run `dvc repro prepare`"
        )
    return LabelledImages(images, labels, record.classes)
