"""Fashion-MNIST from a folder with its four IDX files: 60,000 + 10,000 grey images of 28 x 28 pixels."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from rsd.machine.errors import UserError
from rsd.machine.options import UserPath
from rsd.sources.arrays import ArraySource
from rsd.sources.download import download
from rsd.sources.images import LabelledImages

CLASSES = [
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
]  # fmt: skip


class FashionMnist(ArraySource):
    """`data.source: fashion_mnist`."""

    root: UserPath = Path("/usr/share/datasets/fashion-mnist")
    """Folder of the four IDX files, plain or .gz; the default is where Debian's package
    `dataset-fashion-mnist` puts them."""
    download: bool = False
    """Whether torchvision may fetch the files that are missing into `root`."""

    @property
    def watched(self) -> list[Path]:
        return [] if self.download else [self.root]  # a download has a known checksum

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        """The official training and test images, uint8 `[N, 28, 28, 1]`; UserError for a missing or damaged file."""
        if self.download:
            _download(self.root)
        if not self.root.is_dir():
            raise UserError(
                f"expected Fashion-MNIST's IDX files in the folder {self.root}, found no such folder; "
                "install Debian's package dataset-fashion-mnist, or set data.root to your own folder"
            )
        return _read_pair(self.root, "train"), _read_pair(self.root, "t10k")


def _download(root: Path) -> None:
    """Fetch the missing ones of the four files."""
    for part in ("train", "t10k"):
        for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
            if not (root / name).is_file() and not (root / f"{name}.gz").is_file():
                from torchvision.datasets import FashionMNIST  # late, as in download.py

                sums = dict(FashionMNIST.resources)
                download(f"{FashionMNIST.mirrors[0]}{name}.gz", root / f"{name}.gz", md5=sums[f"{name}.gz"])


def _read_pair(root: Path, part: str) -> LabelledImages:
    images = _read_idx(root, f"{part}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(root, f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(labels):
        raise UserError(
            f"expected one label per image in {root}, found {len(labels)} labels for {len(images)} {part} "
            "images; copy the four files again"
        )
    return LabelledImages(images[..., None], labels.astype(np.int64), CLASSES)


def _read_idx(root: Path, name: str, *, dimensions: int) -> np.ndarray:
    plain, packed = root / name, root / f"{name}.gz"
    try:
        if plain.is_file():
            content = plain.read_bytes()
        elif packed.is_file():
            content = gzip.decompress(packed.read_bytes())
        else:
            raise UserError(f"expected {name} or {name}.gz in {root}, found neither; copy the four IDX files there")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"expected a readable file {name} in {root}, found: {error}; copy it again") from error
    # IDX: two zero bytes, the type (8 = uint8), the number of dimensions, then each size as big-endian uint32.
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise UserError(f"expected an IDX file of uint8 with {dimensions} dimensions, found something else: {name}")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).astype(int)
    if len(content) != header + shape.prod():
        raise UserError(
            f"expected {shape.prod()} bytes of data in {name}, found {len(content) - header}; copy the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
