"""The teacher's outputs for a batch of views: looked up in a store (`embed` writes it), or computed live."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.machine.files import read_json, sha256
from rsd.machine.options import Options
from rsd.models.features import StagedOutputs, staged_outputs
from rsd.models.outputs import Outputs, outputs
from rsd.models.pixels import PixelNormalize
from rsd.views.augment import AugmentOptions


class ViewOptions(Options):
    """`views` of params.yaml."""

    count: int = Field(30, ge=0)
    """Stored views of each image, cycled over the epochs; 0 runs the teacher live, on fresh views."""
    seed: int = Field(0, ge=0)
    """Seed of the stored views."""
    batch_size: int = Field(256, gt=0)
    """Images per forward pass of the teacher."""


def store_digests(*, teacher: Path, dataset: Path, augment: AugmentOptions, options: ViewOptions) -> dict[str, str]:
    """SHA-256 of what a store is made from, each by its name: teacher, images, augmentation, views.

    Of the recipe its augmentation alone: the rest (epochs, rates, losses) says how a student learns, and changes
    nothing of what the teacher sees, so students of several recipes share a store.

    Args:
        teacher: the teacher's safetensors file.
        dataset: `dataset.json`, which holds the checksums of the images.
    """

    def of(chosen: Options) -> str:
        return hashlib.sha256(json.dumps(chosen.model_dump(), sort_keys=True).encode()).hexdigest()

    return {"teacher": sha256(teacher), "images": sha256(dataset), "augmentation": of(augment), "views": of(options)}


class StoredTeacher:
    """Looks the teacher's outputs up instead of running it.

    Args:
        made_from: what the store must have been made from, see `store_digests`.

    Raises:
        UserError: it was not, or it is damaged.
    """

    def __init__(self, folder: Path, *, made_from: dict[str, str], device: torch.device) -> None:
        with _whole(folder):
            header = read_json(folder / "header.json")
            found = header.get("made_from", {})
        if other := [name for name, digest in made_from.items() if found.get(name) != digest]:
            raise UserError(
                "expected a view store made from this teacher, these images, this augmentation and these views, found "
                f"one with other digests of {', '.join(other)} in {folder}; run `dvc repro embed`"
            )
        self.device = device
        with _whole(folder):
            self.embedding = _mapped(folder, "embedding", header)
            self.logits = _mapped(folder, "logits", header)

    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs:
        return Outputs(
            torch.from_numpy(self.embedding[view, index]).to(self.device, non_blocking=True),
            torch.from_numpy(self.logits[view, index]).to(self.device, non_blocking=True),
        )


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, AttributeError) as error:  # all that a damaged file runs into
        raise UserError(
            f"expected a whole view store in {folder}, found it damaged ({error}); run `dvc repro embed`, which writes "
            "it anew"
        ) from error


def _mapped(folder: Path, name: str, header: dict[str, Any]) -> np.ndarray:
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    if array.shape != (shape := (header["views"], header["images"], header[f"{name}_width"])):
        raise ValueError(f"{name}.npy is {array.shape}, and {shape} by the header")
    return array


class LiveTeacher:
    """Runs the teacher on the very pixels the student sees; it never leaves eval mode.

    Args:
        staged: whether it tells its stages, too.
    """

    def __init__(self, teacher: nn.Module, normalize: PixelNormalize, *, staged: bool = False) -> None:
        self.teacher = teacher.eval()
        self.normalize = normalize
        self.staged = staged

    @torch.no_grad()
    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs | StagedOutputs:
        inputs = self.normalize(raw)
        return staged_outputs(self.teacher, inputs) if self.staged else outputs(self.teacher, inputs)
