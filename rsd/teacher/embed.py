"""Writes the view store: what the teacher says of every stored view of every training image."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rsd.machine import parallel
from rsd.machine.errors import UserError
from rsd.machine.files import move_folder, write_json
from rsd.machine.progress import progress
from rsd.models.outputs import embedding_width, outputs
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.teacher.store import ViewOptions
from rsd.views.augment import AugmentOptions
from rsd.views.batches import batches, store_plan

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
    made_from: dict[str, str],
    unfinished: Path,
    workers: int = 0,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, Any]:
    """Run the teacher on every view and write `embedding.npy` `[V, N, D]`, `logits.npy` `[V, N, C]`, fp16.

    The header is written last; a folder without one is not a store. Each of several processes calls it with the
    same arguments and takes a run of the batches, those of one process alone, so the store has that one's numbers.

    Args:
        made_from: see `rsd.teacher.store.store_digests`; for the header.
        unfinished: where a store of these digests grows; what a killed run has left there is gone on with, if it was
            one of as many processes.
        workers: other processes that prepare the views, for each of these.
        save_seconds: how often what is done is noted.

    Returns:
        The header, with the teacher's top-1 in per cent on its stored views (of mixed labels, the larger).

    Raises:
        UserError: an output does not fit into fp16, or there is no room for the store.
    """
    count = len(images.labels)
    per_view = -(-count // options.batch_size)
    own = parallel.own_share(options.count * per_view)
    widths = {"embedding": embedding_width(teacher), "logits": int(teacher.num_classes)}  # type: ignore[arg-type]
    arrays = _opened(
        unfinished, {name: (options.count, count, width) for name, width in widths.items()} if options.count else {}
    )
    noted = unfinished / f"progress-{parallel.rank()}.json"
    try:
        done, right = json.loads(noted.read_text())
    except (FileNotFoundError, ValueError):
        done, right = own.start, 0

    def views_in(start: int, stop: int) -> int:
        return sum(min(options.batch_size, count - options.batch_size * (n % per_view)) for n in range(start, stop))

    plan = partial(store_plan, images=count, batch_size=options.batch_size, augment=augment, seed=options.seed)
    saved = time.monotonic()
    teacher.eval()
    with (
        torch.inference_mode(),
        progress(
            total=views_in(own.start, own.stop),
            done=views_in(own.start, done),
            name="embed" if parallel.processes() == 1 else f"embed (one of {parallel.processes()} shares)",
            unit="views",
            shown=parallel.leads(),
        ) as bar,
    ):
        for batch in batches(
            images, plan, per_view, augment, seed=options.seed, numbers=range(done, own.stop), workers=workers
        ):
            told = outputs(teacher, normalize(batch.raw.to(normalize.mean.device)))
            for name, value in told._asdict().items():
                half = value.half()
                if not torch.isfinite(half).all():
                    raise UserError(
                        f"expected teacher outputs that fit into fp16, found a {name} beyond 65,504 or not "
                        "finite; check the teacher, or run it live with views.count 0"
                    )
                arrays[name][batch.views, batch.images] = half.cpu().numpy()
            labels = batch.target.argmax(dim=1) if batch.target.ndim == 2 else batch.target
            right += int((told.logits.argmax(dim=1).cpu() == labels).sum())
            done += 1
            bar.update(len(batch.images))
            if time.monotonic() - saved >= save_seconds or done == own.stop:
                for array in arrays.values():
                    array.flush()  # type: ignore[attr-defined]
                write_json(noted, [done, right])
                saved = time.monotonic()
    parallel.wait(patiently=True)  # for the others, whose shares may take much longer
    all_right = int(torch.stack(parallel.all_of(torch.tensor(right))).sum())
    header: dict[str, Any] = {"views": options.count, "seed": options.seed, "images": count, "made_from": made_from}
    if options.count:
        header["top1"] = 100 * all_right / (options.count * count)
        header |= {f"{name}_width": width for name, width in widths.items()}
    if parallel.leads():
        write_json(unfinished / "header.json", header)
        move_folder(unfinished, folder)
        for note in (folder / _MADE_FOR, *folder.glob("progress-*.json")):  # until here a kill needs them
            note.unlink(missing_ok=True)
    parallel.wait(patiently=True)
    return header


_MADE_FOR = "processes.json"
"""How many processes write an unfinished store; there when its arrays are."""


def _opened(unfinished: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays to write into: those of an unfinished run of as many processes, or new ones."""
    if parallel.leads():
        try:
            made_for = json.loads((unfinished / _MADE_FOR).read_text())
        except (FileNotFoundError, ValueError):
            made_for = None
        if made_for != parallel.processes():  # other shares, so the notes of what is done mean nothing
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            for name, shape in shapes.items():
                _make(unfinished / f"{name}.npy", shape)
            write_json(unfinished / _MADE_FOR, parallel.processes())
    parallel.wait(patiently=True)
    return {name: np.lib.format.open_memmap(unfinished / f"{name}.npy", mode="r+") for name in shapes}


def _make(path: Path, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            # A write into a map that finds the disk full ends the process without a word: room is taken here.
            if hasattr(os, "posix_fallocate"):  # a Mac has none
                os.posix_fallocate(file.fileno(), 0, size)
            os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"expected room for the view store ({path.stem}: {size / 1e6:.1f} MB) in {path.parent}, found: "
                f"{error.strerror}; free space, lower views.count, or run the teacher live with views.count 0"
            ) from error


def check_store(header: dict[str, Any], *, classes: int, validation_top1: float) -> None:
    """Stop where the teacher does not know the very views it is to teach from.

    Of its lead over chance on validation at least a quarter must be left on the augmented views: less
    means pixels that it was not trained for, or labels in another order. A teacher with less than ten points
    of lead is not judged here: whether it will do is what `teacher.min_top1` says.

    Args:
        validation_top1: the teacher's, in per cent.

    Raises:
        UserError: it is less.
    """
    chance = 100 / classes
    lead = validation_top1 - chance
    least = chance + lead / 4
    if header["views"] and lead >= 10 and header["top1"] < least:
        raise UserError(
            f"expected the teacher ({validation_top1:.2f} % top-1 on validation) to have at least {least:.2f} % on "
            f"its stored views, found {header['top1']:.2f} %; weaken recipe.augment, or check the teacher's "
            "normalisation and input size"
        )
