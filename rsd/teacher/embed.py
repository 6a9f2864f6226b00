"""Writes the view store: the teacher's outputs for every stored view of every training image."""

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rsd.machine import parallel
from rsd.machine.errors import UserError
from rsd.machine.files import move_folder, write_json
from rsd.machine.progress import progress
from rsd.machine.words import size_in_words
from rsd.models.outputs import embedding_width, outputs
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.teacher.store import ResidentMemory, StoreHeader, ViewOptions
from rsd.views.augment import AugmentOptions
from rsd.views.batches import batches, store_plan

REMEDY = "free space, lower views.count, or run the teacher live with views.count 0"
SAVE_SECONDS = 30.0  # a kill costs no more than this much of the teacher's work


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
) -> StoreHeader:
    """Run the teacher on every view and write `embedding.npy` `[V, N, D]`, `logits.npy` `[V, N, C]`, fp16.

    The header is written last; a folder without one is not a store. Each of several processes calls this function
    with the same arguments and takes its share of the batches. The batches are those of one process, so the store has
    the same numbers.

    Args:
        made_from: see `rsd.teacher.store.store_digests`; for the header.
        unfinished: where a store of these digests grows. A killed run of as many processes is continued from there.
        workers: other processes that prepare the views, for each of these.
        save_seconds: how often the progress is saved.

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
    resident = ResidentMemory([*arrays.values()])
    progress_file = unfinished / f"progress-{parallel.rank()}.json"
    try:
        done, correct = json.loads(progress_file.read_text())
    except (FileNotFoundError, ValueError):
        done, correct = own.start, 0

    def views_in(start: int, stop: int) -> int:
        return sum(min(options.batch_size, count - options.batch_size * (n % per_view)) for n in range(start, stop))

    plan = partial(store_plan, labels=images.labels, batch_size=options.batch_size, augment=augment, seed=options.seed)
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
            resident.add(len(batch.images))
            answers = outputs(teacher, normalize(batch.raw.to(normalize.mean.device)))
            for name, value in answers._asdict().items():
                arrays[name][batch.views, batch.images] = _half(name, value)
            correct += _correct(answers.logits, batch.target, has_label=images.labels[batch.images] >= 0)
            done += 1
            bar.update(len(batch.images))
            if time.monotonic() - saved >= save_seconds or done == own.stop:
                for array in arrays.values():
                    array.flush()  # type: ignore[attr-defined]
                write_json(progress_file, [done, correct])
                saved = time.monotonic()
    parallel.wait(patiently=True)  # for the others, whose shares may take much longer
    all_correct = int(torch.stack(parallel.all_of(torch.tensor(correct))).sum())
    header = StoreHeader(views=options.count, seed=options.seed, images=count, made_from=made_from)
    if options.count:
        header.top1 = 100 * all_correct / (options.count * int((images.labels >= 0).sum()))
        header.embedding_width, header.logits_width = widths["embedding"], widths["logits"]
    if parallel.leads():
        header.write(unfinished)
        move_folder(unfinished, folder)
        for file in (folder / _MADE_FOR, *folder.glob("progress-*.json")):  # until here a killed run needs them
            file.unlink(missing_ok=True)
    parallel.wait(patiently=True)
    return header


def _half(name: str, values: Tensor) -> np.ndarray:
    half = values.half()
    if not torch.isfinite(half).all():
        raise UserError(
            f"expected teacher outputs that fit into fp16, found a {name} beyond 65,504 or not finite; check the "
            "teacher, or run it live with views.count 0"
        )
    return half.cpu().numpy()


def _correct(logits: Tensor, target: Tensor, *, has_label: np.ndarray) -> int:
    """How many images with a label the teacher names rightly; of mixed labels the larger counts."""
    labels = target.argmax(dim=1) if target.ndim == 2 else target
    return int((logits.argmax(dim=1).cpu() == labels).numpy()[has_label].sum())


_MADE_FOR = "processes.json"
"""File with the number of processes that write an unfinished store; it is written after the arrays are made."""


def _opened(unfinished: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays to write into: those of an unfinished run of as many processes, or new ones."""
    if parallel.leads():
        try:
            made_for = json.loads((unfinished / _MADE_FOR).read_text())
        except (FileNotFoundError, ValueError):
            made_for = None
        if made_for != parallel.processes():  # other shares, so the saved progress means nothing
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            size, room = sum(2 * math.prod(shape) for shape in shapes.values()), shutil.disk_usage(unfinished).free
            if size > room:
                raise UserError(
                    f"expected room for the view store ({size_in_words(size)}) in {unfinished}, found "
                    f"{size_in_words(room)}; {REMEDY}"
                )
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
            # On a full disk a write into a memory map kills the process without a message, so take the room now.
            if hasattr(os, "posix_fallocate"):  # a Mac has none
                os.posix_fallocate(file.fileno(), 0, size)
            os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"expected room for the view store ({path.stem}: {size_in_words(size)}) in {path.parent}, found: "
                f"{error.strerror}; {REMEDY}"
            ) from error


def check_store(header: StoreHeader, *, classes: int, validation_top1: float) -> None:
    """Stop a pipeline whose teacher is lost on the augmented views that it is to teach from.

    On these views the teacher must keep at least a quarter of its lead over chance on validation. With less, it was
    not trained for such pixels, or its classes are in another order. A teacher with less than ten points of lead is
    not judged here; `teacher.min_top1` judges it.

    Args:
        validation_top1: the teacher's, in per cent.

    Raises:
        UserError: the teacher keeps less.
    """
    chance = 100 / classes
    lead = validation_top1 - chance
    least = chance + lead / 4
    if header.top1 is not None and lead >= 10 and header.top1 < least:
        raise UserError(
            f"expected the teacher ({validation_top1:.2f} % top-1 on validation) to have at least {least:.2f} % on "
            f"its stored views, found {header.top1:.2f} %; weaken recipe.augment, or correct "
            "teacher.mean, teacher.std and teacher.input_size"
        )
