"""The teacher's outputs for a batch of views: looked up in a store (`embed` writes it), or computed live."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
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


class StoredTeacher:
    """Looks the teacher's outputs up instead of running it.

    Args:
        made_from: what the store must have been made from, see `store_digests`.

    Raises:
        UserError: it was made from something else, or is damaged.
    """

    def __init__(self, folder: Path, *, made_from: dict[str, str], device: torch.device) -> None:
        with _whole(folder):
            header = StoreHeader.model_validate_json((folder / HEADER).read_bytes())
        if other := [name for name, digest in made_from.items() if header.made_from.get(name) != digest]:
            raise UserError(
                "expected a view store made from this teacher, these images, this augmentation and these views, found "
                f"one with other digests of {', '.join(other)} in {folder}; run `dvc repro embed`"
            )
        self.device = device
        with _whole(folder):
            shape = header.views, header.images
            self.embedding = _mapped(folder, "embedding", (*shape, header.embedding_width))
            self.logits = _mapped(folder, "logits", (*shape, header.logits_width))

    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs:
        return Outputs(
            torch.from_numpy(self.embedding[view, index]).to(self.device, non_blocking=True),
            torch.from_numpy(self.logits[view, index]).to(self.device, non_blocking=True),
        )


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a damaged file raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"expected a whole view store in {folder}, found it damaged ({reason}); run `dvc repro embed`, which "
            "writes it anew"
        ) from error


def _mapped(folder: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    if array.shape != shape:
        raise ValueError(f"{name}.npy is {array.shape}, and {shape} by the header")
    if array.dtype != np.float16:
        raise ValueError(f"{name}.npy holds {array.dtype}, and a store float16")
    return array


class LiveTeacher:
    """Runs the teacher on the pixels that the student is shown; it never leaves eval mode.

    Args:
        staged: whether it also gives the feature maps of its stages.
    """

    def __init__(self, teacher: nn.Module, normalize: PixelNormalize, *, staged: bool = False) -> None:
        self.teacher = teacher.eval()
        self.normalize = normalize
        self.staged = staged

    @torch.no_grad()
    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs | StagedOutputs:
        inputs = self.normalize(raw)
        return staged_outputs(self.teacher, inputs) if self.staged else outputs(self.teacher, inputs)
