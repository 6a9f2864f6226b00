"""The teacher's outputs for a batch of views: looked up in a store (`embed` writes it), or computed live."""

import hashlib
import json
import math
import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.machine.options import Options, Seed
from rsd.models.features import StagedOutputs, staged_outputs
from rsd.models.outputs import Outputs, outputs
from rsd.models.pixels import PixelNormalize
from rsd.run.names import HEADER
from rsd.run.records import Written
from rsd.views.augment import AugmentOptions

READERS = 16  # threads that read rows, so many at once: a disk serves sixteen requests together several times as fast
ROWS_OF_A_READER = 16  # a smaller batch takes fewer readers, each of which costs ten microseconds
RESIDENT_BYTES = 256 << 20
"""Of a store, in the resident memory of a process; the system's page cache keeps more where it has room."""


class ViewOptions(Options):
    """`views` of params.yaml."""

    count: int = Field(30, ge=0, le=100_000)
    """Stored views of each image, cycled over the epochs; 0 runs the teacher live, on fresh views."""
    seed: Seed = 0
    """Seed of the stored views."""
    batch_size: int = Field(256, gt=0, le=1_000_000)
    """Images per forward pass of the teacher."""


class StoreHeader(Written):
    """`header.json`: what is in a store."""

    location = f"views/{HEADER}"

    views: int = Field(ge=0)
    """Of each image, and of `seed`."""
    seed: int
    images: int = Field(ge=0)
    made_from: dict[str, str]
    """See `store_digests`."""
    top1: float | None = None
    """The teacher's, in per cent over its stored views (of mixed labels, the larger); this and the widths only with
    views."""
    embedding_width: int | None = Field(None, gt=0)
    logits_width: int | None = Field(None, gt=0)


def store_digests(*, teacher: Path, dataset: Path, augment: AugmentOptions, options: ViewOptions) -> dict[str, str]:
    """SHA-256 of what a store is made from, by name: teacher, images, augmentation, views.

    Only the augmentation of the recipe counts: epochs, rates and losses do not change what the teacher is shown, so
    students of several recipes share a store.

    Args:
        teacher: the teacher's safetensors file.
        dataset: `dataset.json`, which holds the checksums of the images.
    """

    def digest(section: Options) -> str:
        return hashlib.sha256(json.dumps(section.model_dump(), sort_keys=True).encode()).hexdigest()

    return {
        "teacher": sha256(teacher),
        "images": sha256(dataset),
        "augmentation": digest(augment),
        "views": digest(options),
    }


@dataclass(frozen=True)
class Rows:
    """The teacher's outputs for a batch, while they are being read."""

    index: np.ndarray
    view: np.ndarray
    outputs: Outputs
    """In pinned memory where they go to a GPU; whole when all reads are done."""
    reads: list[Future[None]]


class StoredTeacher:
    """Looks the teacher's outputs up instead of running it.

    A store of up to `RESIDENT_BYTES` is loaded, onto the device. Of a larger one, perhaps larger than memory, rows are
    read in the order of the file, without reading ahead. On CUDA they go into pinned memory, from which the GPU copies
    them while it computes.

    Args:
        made_from: what the store must have been made from, see `store_digests`.

    Raises:
        UserError: it was made from something else, or is damaged.
    """

    def __init__(self, folder: Path, *, made_from: dict[str, str], device: torch.device) -> None:
        with _intact(folder):
            header = StoreHeader.model_validate_json((folder / HEADER).read_bytes())
        if other := [name for name, digest in made_from.items() if header.made_from.get(name) != digest]:
            raise UserError(
                "expected a view store made from this teacher, these images, this augmentation and these views, found "
                f"one with other digests of {', '.join(other)} in {folder}; run `dvc repro embed`"
            )
        self.device = device
        self.loaded: list[Tensor] = []
        """All rows on the device, where they are few."""
        with _intact(folder):
            shape = header.views, header.images
            self.embedding = _memory_map(folder, "embedding", (*shape, header.embedding_width))
            self.logits = _memory_map(folder, "logits", (*shape, header.logits_width))
            self.resident = ResidentMemory((self.embedding, self.logits))
            if self.resident.small:
                flat = (array.reshape(-1, array.shape[2]) for array in (self.embedding, self.logits))
                self.loaded = [torch.from_numpy(np.array(rows)).to(device) for rows in flat]
        self._readers = ThreadPoolExecutor(READERS, "view store")
        self.ahead: deque[Rows] = deque()
        """Of coming calls, in their order."""

    def prefetch(self, index: np.ndarray, view: np.ndarray) -> None:
        """Read meanwhile the rows of a later call with this `index` and `view`; calls come in the same order."""
        if not self.loaded:
            self.ahead.append(self._reading(index, view))

    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs:
        if self.loaded:
            numbers = torch.from_numpy(self._row_numbers(index, view)).to(self.device, non_blocking=True)
            return Outputs(*(rows.index_select(0, numbers) for rows in self.loaded))
        rows = self._prefetched(index, view) or self._reading(index, view)
        for read in rows.reads:
            read.result()
        return Outputs(*(values.to(self.device, non_blocking=True) for values in rows.outputs))

    def _prefetched(self, index: np.ndarray, view: np.ndarray) -> Rows | None:
        while self.ahead:  # a call that did not come leaves rows
            rows = self.ahead.popleft()
            if np.array_equal(rows.index, index) and np.array_equal(rows.view, view):
                return rows
        return None

    def _reading(self, index: np.ndarray, view: np.ndarray) -> Rows:
        pinned = self.device.type == "cuda"
        rows = Outputs(
            *(
                torch.empty((len(index), array.shape[2]), dtype=torch.float16, pin_memory=pinned)
                for array in (self.embedding, self.logits)
            )
        )
        self.resident.add(len(index))
        in_file_order = np.lexsort((index, view))
        reads = [
            self._readers.submit(self._read, rows, index, view, part)
            for part in np.array_split(in_file_order, min(READERS, -(-len(index) // ROWS_OF_A_READER)))
        ]
        return Rows(index, view, rows, reads)

    def _read(self, rows: Outputs, index: np.ndarray, view: np.ndarray, part: np.ndarray) -> None:
        for array, values in zip((self.embedding, self.logits), rows, strict=True):
            # `take` lets the other threads of Python run while it waits for the disk; an index in brackets does not.
            numbers = self._row_numbers(index[part], view[part])
            values.numpy()[part] = array.reshape(-1, array.shape[2]).take(numbers, axis=0)

    def _row_numbers(self, index: np.ndarray, view: np.ndarray) -> np.ndarray:
        """Rows of the arrays that have a row for each image of each view; ValueError for one that is not there."""
        return np.ravel_multi_index((view, index), self.embedding.shape[:2])


class ResidentMemory:
    """Keeps what a process holds of memory-mapped arrays below `RESIDENT_BYTES`, give or take a batch.

    Every page that was touched counts as resident memory of the process until it is given back. It stays in the
    system's page cache, from which the next touch takes it, and a changed page is written all the same.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.maps = [base for array in arrays if (base := _map_of(array))]
        # A touch maps up to sixteen pages of four kilobytes. Arrays within the bound are never given back.
        self.small = sum(array.nbytes for array in arrays) <= RESIDENT_BYTES
        self.most = math.inf if self.small else RESIDENT_BYTES // (len(arrays) * (16 << 12))
        self.rows = 0

    def add(self, rows: int) -> None:
        """Count rows that are about to be touched, of each array."""
        self.rows += rows
        if self.rows > self.most:
            self.give_back()
            self.rows = rows

    def give_back(self) -> None:
        """Hold nothing of the arrays. They can be read and written on."""
        for mapped in self.maps:
            mapped.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _intact(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a damaged file raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"expected a whole view store in {folder}, found it damaged ({reason}); run `dvc repro embed`, which "
            "writes it anew"
        ) from error


def _memory_map(folder: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    if array.shape != shape:
        raise ValueError(f"{name}.npy is {array.shape}, and {shape} by the header")
    if array.dtype != np.float16:
        raise ValueError(f"{name}.npy holds {array.dtype}, and a store float16")
    if base := _map_of(array):
        # Rows come in random order. Reading ahead, up to megabytes for a row, would read a large store many times.
        base.madvise(mmap.MADV_RANDOM)
    return array


def _map_of(array: np.ndarray) -> mmap.mmap | None:
    base: object = array.base
    return base if isinstance(base, mmap.mmap) else None  # an empty array has none


class LiveTeacher:
    """Runs the teacher, always in eval mode, on the student's pixels; `staged`: with the feature maps of its stages."""

    def __init__(self, teacher: nn.Module, normalize: PixelNormalize, *, staged: bool = False) -> None:
        self.teacher = teacher.eval()
        self.normalize = normalize
        self.staged = staged

    @torch.no_grad()
    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs | StagedOutputs:
        inputs = self.normalize(raw)
        return staged_outputs(self.teacher, inputs) if self.staged else outputs(self.teacher, inputs)
