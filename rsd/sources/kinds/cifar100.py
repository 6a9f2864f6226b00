"""CIFAR-100 from a folder or an archive: 50,000 + 10,000 colour images of 32 x 32 pixels."""

import gzip
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rsd.machine.errors import UserError
from rsd.machine.options import UserPath
from rsd.sources import safe_pickle
from rsd.sources.arrays import ArraySource
from rsd.sources.download import download
from rsd.sources.images import LabelledImages

FOLDER = "cifar-100-python"
ARCHIVE = f"{FOLDER}.tar.gz"
_PARTS = ("meta", "train", "test")
_LARGEST = 1 << 28  # bytes of one file; the largest of the real ones has 155 MB
_MOST_MEMBERS = 32  # of an archive; the real one has 5


class Cifar100(ArraySource):
    """`data.source: cifar100`."""

    root: UserPath = Path("datasets")
    """Holds `cifar-100-python/` or `cifar-100-python.tar.gz`, or is one of the two."""
    download: bool = False
    """Whether torchvision may fetch the archive into `root` where it is missing."""

    @property
    def watched(self) -> list[Path]:
        return [] if self.download else [self.root]  # a download has a known checksum

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        """The official training and test images, uint8 `[N, 32, 32, 3]`, with the 100 fine labels.

        The files are pickles; `rsd.sources.safe_pickle` reads them, from the archive without unpacking it.

        Raises:
            UserError: there is neither folder nor archive, or its content is damaged or is not CIFAR-100.
        """
        place = self._find()
        try:
            files = _read_folder(place) if place.is_dir() else _read_archive(place)
        except (OSError, EOFError, zlib.error, tarfile.TarError, _TooLargeError) as error:
            raise UserError(f"expected CIFAR-100 in {place}, found: {error}; fetch it again") from error
        classes = _names(files.pop("meta"), place / "meta")
        train, test = (_images(files.pop(part), place / part, classes) for part in ("train", "test"))
        return train, test

    def _find(self) -> Path:
        root = self.root
        if root.is_file() or all((root / part).is_file() for part in _PARTS):
            return root
        for place in (root / FOLDER, root / ARCHIVE):
            if place.exists():
                return place
        if not self.download:
            raise UserError(
                f"expected {FOLDER}/ or {ARCHIVE} in {root}, found neither; put one there, set data.root to where it "
                "is, or set data.download to true"
            )
        from torchvision.datasets import CIFAR100  # late, as in download.py

        download(CIFAR100.url, root / ARCHIVE, md5=CIFAR100.tgz_md5)
        return root / ARCHIVE


class _TooLargeError(Exception):
    """More than CIFAR-100 can be."""


def _read_folder(folder: Path) -> dict[str, bytes]:
    for part in _PARTS:
        path = folder / part
        if not path.is_file():
            raise FileNotFoundError(f"no file {part}")
        if path.stat().st_size > _LARGEST:
            raise _TooLargeError(f"{part} of {path.stat().st_size} bytes")
    return {part: (folder / part).read_bytes() for part in _PARTS}


class _Bounded(gzip.GzipFile):
    """Refuses to read more than a file may have, whatever size the archive's header states."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _LARGEST:
            raise _TooLargeError(f"a part of {size} bytes")
        return super().read(size)


def _read_archive(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with _Bounded(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
        for number, member in enumerate(archive):
            if number == _MOST_MEMBERS or member.size > _LARGEST:
                raise _TooLargeError(f"more than {_MOST_MEMBERS} files, or {member.name!r} of {member.size} bytes")
            folder, part = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
            # A link or a device of that name is skipped: only bytes of the archive itself are read.
            if folder == PurePosixPath(FOLDER) and part in _PARTS and member.isreg() and part not in files:
                file = archive.extractfile(member)
                assert file is not None  # as isreg() says
                files[part] = file.read(member.size)
                if len(files[part]) != member.size:
                    raise EOFError(f"{part} cut short")
    missing = [part for part in _PARTS if part not in files]
    if missing:
        raise FileNotFoundError(f"no file {FOLDER}/{missing[0]}")
    return files


def _fields(content: bytes, path: Path) -> dict[str, Any]:
    """The dict in a file; its keys are bytes or strings, as Python 2 or 3 wrote them."""
    try:
        value = safe_pickle.loads(content)
    except safe_pickle.UnsafePickleError as error:
        raise UserError(f"expected a file of CIFAR-100 in {path}, found {error}; fetch it again") from error
    if type(value) is not dict:
        raise UserError(f"expected a dict in {path}, found a {type(value).__name__}; fetch it again")
    return {_text(key): item for key, item in value.items()}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _names(content: bytes, path: Path) -> list[str]:
    names = _fields(content, path).get("fine_label_names")
    names = [_text(name) for name in names if isinstance(name, bytes | str)] if isinstance(names, list) else []
    if len(set(names)) != 100:
        raise UserError(
            f"expected 100 different names of classes in {path}, found {len(set(names))}; this reads the fine labels "
            "of CIFAR-100, not CIFAR-10: fetch it again"
        )
    return names


def _images(content: bytes, path: Path, classes: list[str]) -> LabelledImages:
    fields = _fields(content, path)
    data, labels = fields.get("data"), fields.get("fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        other = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else "none"
        raise UserError(f"expected images uint8 [N, 3072] as `data` in {path}, found {other}; fetch it again")
    if not isinstance(labels, list) or len(labels) != len(data) or not len(data):
        other = f"{len(labels)}" if isinstance(labels, list) else "no list"
        raise UserError(
            f"expected as many `fine_labels` as images ({len(data)}) in {path}, found {other}; fetch it again"
        )
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < len(classes)]
    if wrong:
        raise UserError(f"expected labels 0 to {len(classes) - 1} in {path}, found {wrong[0]!r}; fetch it again")
    # A row holds the red, then the green, then the blue pixels, each row by row.
    images = np.ascontiguousarray(np.asarray(data).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return LabelledImages(images, np.array(labels, np.int64), classes)
