"""Writes the view store: what the teacher says of every stored view of every training image."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rsd.data.augment import AugmentOptions
from rsd.data.batches import batches, store_plan
from rsd.data.images import LabelledImages
from rsd.errors import UserError
from rsd.files import write_json, written_aside
from rsd.models import PixelNormalize, outputs
from rsd.progress import progress
from rsd.views import ViewOptions

SAVE_SECONDS = 30.0
"""A kill costs no more than this much of the teacher's work."""


def write_store(
    folder: Path,
    teacher: nn.Module,
    normalize: PixelNormalize,
    images: LabelledImages,
    *,
    augment: AugmentOptions,
    options: ViewOptions,
    digest: str,
    unfinished: Path,
    workers: int = 0,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, Any]:
    """Run the teacher on every view and write `embedding.npy` `[V, N, D]`, `logits.npy` `[V, N, C]`, fp16.

    The header is written last; a folder without one is not a store.

    Args:
        unfinished: where a store of this digest grows; what a killed run has left there is gone on with.
        workers: processes that prepare the views.
        save_seconds: how often what is done is noted.

    Returns:
        The header, with the teacher's top-1 in per cent on its stored views (of mixed labels, the larger).

    Raises:
        UserError: an output does not fit into fp16.
    """
    count = len(images.labels)
    batches_per_view = -(-count // options.batch_size)
    total = options.count * batches_per_view
    noted = unfinished / "progress.json"
    try:
        done, right = json.loads(noted.read_text())
    except (FileNotFoundError, ValueError):
        done, right = 0, 0
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)

    arrays: dict[str, np.ndarray] = {}
    saved = time.monotonic()
    teacher.eval()
    views_done = sum(min(options.batch_size, count - options.batch_size * (n % batches_per_view)) for n in range(done))
    with (
        torch.inference_mode(),
        progress(total=options.count * count, done=views_done, name="embed", unit="views") as bar,
    ):
        for view in range(done // batches_per_view, options.count):
            plan = store_plan(count, options.batch_size, augment, seed=options.seed, view=view)
            start = max(done - view * batches_per_view, 0)
            for batch in batches(images, plan, augment, seed=options.seed, workers=workers, start=start):
                told = outputs(teacher, normalize(batch.raw.to(normalize.mean.device)))
                for name, value in told._asdict().items():
                    if name not in arrays:
                        shape = (options.count, count, value.shape[1])
                        arrays[name] = _array(unfinished / f"{name}.npy", shape, fresh=not done)
                    half = value.half()
                    if not torch.isfinite(half).all():
                        raise UserError(
                            f"expected teacher outputs that fit into fp16, found a {name} beyond 65,504 or not "
                            "finite; check the teacher, or run it live with views.count 0"
                        )
                    arrays[name][view, batch.images] = half.cpu().numpy()
                labels = batch.target.argmax(dim=1) if batch.target.ndim == 2 else batch.target
                right += int((told.logits.argmax(dim=1).cpu() == labels).sum())
                done += 1
                bar.update(len(batch.images))
                if time.monotonic() - saved >= save_seconds or done == total:
                    for array in arrays.values():
                        array.flush()  # type: ignore[attr-defined]
                    write_json(noted, [done, right])
                    saved = time.monotonic()
    header: dict[str, Any] = {"views": options.count, "seed": options.seed, "images": count, "digest": digest}
    if total:
        header["top1"] = 100 * right / (options.count * count)
    for name in ("embedding", "logits") if total else ():
        array = np.load(unfinished / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        header[f"{name}_width"] = array.shape[2]
    write_json(unfinished / "header.json", header)
    noted.unlink(missing_ok=True)
    with written_aside(folder) as aside:
        shutil.move(unfinished, aside)
    return header


def _array(path: Path, shape: tuple[int, ...], *, fresh: bool) -> np.ndarray:
    if fresh:
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    return np.lib.format.open_memmap(path, mode="r+")


def check_store(header: dict[str, Any], *, classes: int, validation_top1: float) -> None:
    """Stop where the teacher does not know the very views it is to teach from.

    Of its lead over chance on validation at least a quarter must be left on the augmented views: less
    means pixels that it was not trained for, or labels in another order.

    Args:
        validation_top1: the teacher's, in per cent.

    Raises:
        UserError: it is less.
    """
    chance = 100 / classes
    least = chance + (validation_top1 - chance) / 4
    if header["views"] and header["top1"] < least:
        raise UserError(
            f"expected the teacher ({validation_top1:.2f} % top-1 on validation) to have at least {least:.2f} % on "
            f"its stored views, found {header['top1']:.2f} %; weaken recipe.augment, or check the teacher's "
            "normalisation and input size"
        )
