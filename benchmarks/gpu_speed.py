"""How fast training is on a GPU: what RSD's step costs there, and how many processes it takes to feed it.

    python -m benchmarks.gpu_speed
    python -m benchmarks.gpu_speed steps                 # or loop, views, batch

Some minutes on one GPU. Untrained pairs of the paper at 224 x 224, batch 128 of random pixels.

*steps*: the step of `Stepper` on a batch in pinned memory, in several settings of `compute`. Four ways to train the
same student run turn by turn: alone (*scratch*), by RSD with the teacher's outputs from a view store (*stored*), the
plain step with a live teacher's forward pass before it, and RSD with the *live* teacher. Images per second are medians
with quartiles, a ratio is the median of the ratios within a turn.

*loop*: `train` over one epoch after a first that is not counted, with crop and flip, by the number of worker
processes that prepare batches: images of 32 x 32 in memory (CIFAR-100's format) and JPEGs of 500 x 375 (ImageNet's), of
which all are in the page cache. The last column is the share of what the same step reaches when nothing has to be read.

*views*: batches of 32 x 32 images in memory, moved and flipped, made on the CPU and on the GPU.

*batch*: the largest batch, a power of two, of which a step fits into the GPU's memory, plain and by RSD.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor

from benchmarks.command import command
from benchmarks.interleaved import interleaved, print_rows, spread
from benchmarks.loader import write_jpegs
from benchmarks.pair import Case, bench
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.errors import UserError
from rsd.machine.fingerprint import fingerprint, short_name
from rsd.models.make import ModelOptions
from rsd.sources.images import ArrayImages, ImageFiles, Images, LabelledImages
from rsd.training.loop import Data, Session, train
from rsd.training.recipe import Recipe
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.batches import Batch, batches, epoch_plan
from rsd.views.crop import CropOptions
from rsd.views.on_device import device_batches

SETTINGS: dict[str, dict[str, object]] = {
    "float32": {},
    "bf16": {"amp": "bf16"},
    "bf16, channels_last": {"amp": "bf16", "channels_last": True},
    "bf16, channels_last, not deterministic": {"amp": "bf16", "channels_last": True, "deterministic": False},
    "bf16, channels_last, compile": {"amp": "bf16", "channels_last": True, "compile": True},
    "bf16, channels_last, one CUDA graph": {"amp": "bf16", "channels_last": True, "cuda_graph": True},
}
CASES = {
    "Swin-T -> ResNet18": Case(ModelOptions(name="swin_tiny_patch4_window7_224"), ModelOptions(name="resnet18"), "sgd"),
    "ConvNeXt-T -> DeiT-T": Case(
        ModelOptions(name="convnext_tiny"), ModelOptions(name="deit_tiny_patch16_224"), "adamw"
    ),
}


def recipe(case: Case) -> Recipe:
    """The student's own of CIFAR-100, but for what a step does not cost."""
    augment = AugmentOptions(crop=CropOptions(), flip=True)
    return Recipe(
        epochs=2, batch_size=case.batch, optimizer=case.optimizer, learning_rate=1e-4, weight_decay=0.05,
        clip_gradient=5.0, augment=augment,
    )  # fmt: skip


def waiting(step: Callable[[], object], count: int, device: torch.device) -> Callable[[], None]:
    """So many steps, and then for the GPU."""

    def turn() -> None:
        for _ in range(count):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return turn


def ways(
    case: Case, compute: ComputeOptions, device: torch.device, folder: Path
) -> dict[str, Callable[[], dict[str, Tensor]]]:
    """A step of each way to train the student, by name."""
    pair = bench(case, folder, device)
    if device.type == "cuda":
        pair = replace(pair, raw=pair.raw.cpu().pin_memory(), target=pair.target.cpu().pin_memory())
    # The plain step asks whatever teacher it is given, and makes nothing of the answer.
    return {
        "scratch": pair.step(pair.scratch(), None, compute),
        "stored": pair.step(pair.rsd(), pair.stored, compute),
        "scratch + teacher": pair.step(pair.scratch(), pair.live(), compute),
        "live": pair.step(pair.rsd(), pair.live(), compute),
    }


def step_row(case: Case, setting: str, device: torch.device, *, rounds: int, steps: int) -> dict[str, str]:
    """What a step takes in a setting of `compute`."""
    compute = ComputeOptions.model_validate({"device": device.type, **SETTINGS[setting]})
    with tempfile.TemporaryDirectory() as folder:
        turns = {name: waiting(step, steps, device) for name, step in ways(case, compute, device, Path(folder)).items()}
        times = interleaved(turns, rounds=rounds, warmup=2)
    rates = {name: spread(steps * case.batch / times[name], digits=4) for name in times}
    return {
        "compute": setting,
        **{f"{name}, images/s": rates[name] for name in ("scratch", "stored", "live")},
        "stored / scratch": spread(times["stored"] / times["scratch"], digits=4),
        "live / (scratch + teacher)": spread(times["live"] / times["scratch + teacher"], digits=4),
    }


@contextmanager
def image_sources(count: int, side: int) -> Iterator[dict[str, Images]]:
    """What is read in the loop, by name: `count` images each."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        few = write_jpegs(Path(name), 512)
        again = np.arange(count) % len(few)
        paths = [os.fsdecode(few.paths[number]) for number in again]
        yield {
            "32 x 32, in memory": ArrayImages(pixels, side),
            "JPEG, 500 x 375": ImageFiles(Path(name), paths, few.originals[again], size=side, crop_share=0.875),
        }


def loop_rate(case: Case, images: Images, compute: ComputeOptions, device: torch.device) -> float:
    """Images per second of the second epoch of RSD over a view store."""
    labels = np.arange(len(images)) % case.classes
    split = LabelledImages(images, labels, [str(number) for number in range(case.classes)])
    few = LabelledImages(np.asarray(images[: case.batch]), labels[: case.batch], split.classes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair = bench(case._replace(images=len(images)), folder, device)
        session = Session(0, ViewChoice(0, 1), pair.stored, compute, logs=folder, name="loop")
        train(pair.rsd().to(device), Data(split, few, pair.normalize), recipe(case), session)
        return float(pd.read_csv(folder / "loop.csv").images_per_second.iloc[-1])


def loop_rows(
    case: Case, setting: str, device: torch.device, *, workers: list[int], images: int
) -> Iterator[dict[str, str]]:
    """What the loop reaches with so many workers, beside what its step alone does."""
    options = {"device": device.type, **SETTINGS[setting]}
    with tempfile.TemporaryDirectory() as folder:
        step = ways(case, ComputeOptions.model_validate(options), device, Path(folder))["stored"]
        alone = 20 * case.batch / interleaved({"stored": waiting(step, 20, device)}, rounds=5)["stored"].median()
    with image_sources(images, case.shape[0]) as sources:
        for what, source in sources.items():
            for count in workers:
                compute = ComputeOptions.model_validate({**options, "workers": count})
                rate = loop_rate(case, source, compute, device)
                yield {
                    "images": what,
                    "compute": setting,
                    "workers": str(count),
                    "images/s": f"{rate:.0f}",
                    "of its step": f"{rate / alone:.2f}",
                }


def view_rates(device: torch.device, *, images: int = 50_000, batch: int = 128, epochs: int = 3) -> dict[str, str]:
    """Images per second of batches that reach the device, from either side."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    split = LabelledImages(pixels, np.arange(images) % 100, [str(number) for number in range(100)])
    augment, steps = AugmentOptions(shift=4, flip=True), images // batch
    plan = partial(epoch_plan, images=images, batch_size=batch, augment=augment, seed=0, view_choice=ViewChoice(0))
    served: dict[str, Iterator[Batch]] = {
        "CPU": batches(split, plan, steps, augment, seed=0, numbers=range(epochs * steps)),
        "device": device_batches(split, plan, steps, augment, device, seed=0, numbers=range(epochs * steps)),
    }
    row = {"images": "32 x 32, in memory"}
    for where, stream in served.items():
        next(stream).raw.to(device)
        start, count = time.perf_counter(), 0
        for one in stream:
            one.raw.to(device, non_blocking=True)
            count += batch
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        row[f"made on the {where}, images/s"] = f"{count / (time.perf_counter() - start):.0f}"
    return row


def largest_batch(case: Case, setting: str, device: torch.device, *, most: int = 1 << 14) -> dict[str, str]:
    """The largest power of two up to `most` of which a step fits, by the way to train."""
    compute = ComputeOptions.model_validate({"device": device.type, **SETTINGS[setting]})
    row = {"compute": setting}
    for way in ("scratch", "stored"):
        largest = 0
        for batch in (1 << power for power in range(3, most.bit_length())):
            try:
                with tempfile.TemporaryDirectory() as folder:
                    sized = case._replace(batch=batch, images=max(case.images, batch))
                    waiting(ways(sized, compute, device, Path(folder))[way], 2, device)()
            except torch.OutOfMemoryError:
                break
            largest = batch
        row[way] = str(largest)
    return row


def main(part: Annotated[Literal["steps", "loop", "views", "batch"] | None, typer.Argument()] = None) -> None:
    if not torch.cuda.is_available():
        raise UserError("expected a CUDA device, found none; run this on a machine that has one")
    device = set_up(ComputeOptions(device="cuda"))
    print(short_name(fingerprint()))
    if part in (None, "steps"):
        for name, case in CASES.items():
            print(f"\n{name}, batch {case.batch}\n")
            print_rows(step_row(case, setting, device, rounds=9, steps=20) for setting in SETTINGS)
    if part in (None, "views"):
        print("\nViews, batch 128\n")
        print_rows([view_rates(device)])
    if part in (None, "batch"):
        name, case = next(iter(CASES.items()))
        print(f"\n{name}, largest batch\n")
        print_rows(largest_batch(case, setting, device) for setting in ("float32", "bf16, channels_last"))
    if part in (None, "loop"):
        name, case = next(iter(CASES.items()))
        print(f"\n{name}, RSD over a view store, {os.cpu_count()} cores\n")
        print_rows(loop_rows(case, "bf16, channels_last", device, workers=[0, 4, 8, 15], images=12_800))


if __name__ == "__main__":
    command(main, __doc__)
