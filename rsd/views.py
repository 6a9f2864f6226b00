"""The store of teacher outputs for every view of every training image, and the teacher that runs live."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rsd.data.augment import AugmentOptions, views
from rsd.errors import UserError
from rsd.features import StagedOutputs, staged_outputs
from rsd.files import read_json, sha256, write_json, written_aside
from rsd.models import Outputs, PixelNormalize, outputs
from rsd.options import Options
from rsd.progress import progress


class ViewOptions(Options):
    """`views` of params.yaml."""

    count: int = Field(30, ge=0)
    """Stored views of each image, cycled over the epochs; 0 runs the teacher live, on fresh views."""
    seed: int = Field(0, ge=0)
    """Seed of the stored views."""
    batch_size: int = Field(256, gt=0)
    """Images per forward pass of the teacher."""


def store_digest(*, teacher: Path, dataset: Path, augment: AugmentOptions, options: ViewOptions) -> str:
    """What a store must have been made from: weights of the teacher, images, augmentation, views.

    Args:
        teacher: the teacher's safetensors file.
        dataset: `dataset.json`, which holds the checksums of the images.
    """
    made_from = [sha256(teacher), sha256(dataset), augment.model_dump(), options.model_dump()]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def write_store(
    folder: Path,
    teacher: nn.Module,
    normalize: PixelNormalize,
    images: np.ndarray,
    *,
    augment: AugmentOptions,
    options: ViewOptions,
    digest: str,
) -> dict[str, Any]:
    """Run the teacher on every view and write `embedding.npy` `[V, N, D]`, `logits.npy` `[V, N, C]`, fp16.

    The header is written last; a folder without one is not a store.

    Raises:
        UserError: an output does not fit into fp16.
    """
    header: dict[str, Any] = {
        "views": options.count,
        "seed": options.seed,
        "images": len(images),
        "digest": digest,
    }
    with written_aside(folder) as aside, torch.inference_mode():
        aside.mkdir()
        arrays: dict[str, np.ndarray] = {}
        teacher.eval()
        with progress(total=options.count * len(images), name="embed", unit="views") as bar:
            for view in range(options.count):
                for start in range(0, len(images), options.batch_size):
                    index = np.arange(start, min(start + options.batch_size, len(images)))
                    raw = torch.from_numpy(views(images, index, augment, seed=options.seed, view=view))
                    told = outputs(teacher, normalize(raw.to(normalize.mean.device)))
                    for name, value in told._asdict().items():
                        if name not in arrays:
                            shape = (options.count, len(images), value.shape[1])
                            arrays[name] = np.lib.format.open_memmap(
                                aside / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape
                            )
                        arrays[name][view, start : start + len(index)] = value.half().cpu().numpy()
                    bar.update(len(index))
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(
                    f"expected teacher outputs that fit into fp16, found a {name} beyond 65,504 or not finite; "
                    "check the teacher, or run it live with views.count 0"
                )
            header[f"{name}_width"] = array.shape[2]
        write_json(aside / "header.json", header)
    return header


class StoredTeacher:
    """Looks the teacher's outputs up instead of running it.

    Raises:
        UserError: the store was made from another teacher, other images or another augmentation.
    """

    def __init__(self, folder: Path, *, digest: str, device: torch.device) -> None:
        header = read_json(folder / "header.json")
        if header["digest"] != digest:
            raise UserError(
                f"expected a view store made from this teacher, these images and this augmentation, found another "
                f"in {folder}; run `dvc repro embed`"
            )
        self.device = device
        self.embedding = np.load(folder / "embedding.npy", mmap_mode="r", allow_pickle=False)
        self.logits = np.load(folder / "logits.npy", mmap_mode="r", allow_pickle=False)

    def __call__(self, raw: Tensor, index: np.ndarray, view: int) -> Outputs:
        return Outputs(
            torch.from_numpy(self.embedding[view, index]).to(self.device),
            torch.from_numpy(self.logits[view, index]).to(self.device),
        )


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
    def __call__(self, raw: Tensor, index: np.ndarray, view: int) -> Outputs | StagedOutputs:
        inputs = self.normalize(raw)
        return staged_outputs(self.teacher, inputs) if self.staged else outputs(self.teacher, inputs)
