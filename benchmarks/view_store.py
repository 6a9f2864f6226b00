"""What the view store saves in a step of RSD: its time with the stored teacher beside the live one.

    python -m benchmarks.view_store
    python -m benchmarks.view_store --clock cpu --rounds 7   # on a machine that does other work meanwhile

About two minutes on one quiet core. Untrained models, float32, one CPU thread. A step is that of `Stepper`, with
the batch's views already made: normalise, ask the teacher, forward, backward, clip, update. *Stored* looks up what
`embed` would have written, *live* runs the teacher on the same pixels; both train a copy of the same student, turn
by turn. Small: the default pair on digits (ResNet of 166 k parameters, ViT of 27 k, 16 x 16, batch 64). 224: Swin-T and
ResNet18 at 224 x 224, batch 16. Times are medians with quartiles, the ratio is the median of the ratios within a turn.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.interleaved import interleaved, markdown, spread
from benchmarks.random_store import random_store
from rsd.machine.compute import ComputeOptions
from rsd.machine.yaml_file import read_yaml
from rsd.methods.base import Setting
from rsd.methods.rsd import RSDDistiller
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import embedding_width
from rsd.models.pixels import PixelNormalize
from rsd.teacher.store import LiveTeacher
from rsd.training.loop import Teacher
from rsd.training.recipe import Recipe
from rsd.training.stepper import Stepper

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DIGITS = read_yaml(Path(__file__).parents[1] / "conf" / "pair" / "digits" / "resnet-vit.yaml")


class Case(NamedTuple):
    """A pair, and the batches that it is given."""

    teacher: ModelOptions
    student: ModelOptions
    shape: tuple[int, int, int]
    """Height, width and channels of an image."""
    batch: int
    classes: int
    images: int
    """In the store."""


CASES = {
    "digits, 16 px": Case(
        ModelOptions(name=DIGITS["teacher"]["name"], args=DIGITS["teacher"]["args"]),
        ModelOptions(name=DIGITS["student"]["name"], args=DIGITS["student"]["args"]),
        shape=(16, 16, 1),
        batch=64,
        classes=10,
        images=900,
    ),
    "Swin-T, ResNet18, 224 px": Case(
        ModelOptions(name="swin_tiny_patch4_window7_224"),
        ModelOptions(name="resnet18"),
        shape=(224, 224, 3),
        batch=16,
        classes=100,
        images=900,
    ),
}


def steps(case: Case, folder: Path) -> dict[str, Callable[[], object]]:
    """A step of RSD with the stored and with the live teacher, by name."""
    normalize = PixelNormalize([0.5] * case.shape[2], [0.25] * case.shape[2])
    raw = torch.randint(0, 256, (case.batch, *case.shape), dtype=torch.uint8)
    target = torch.randint(0, case.classes, (case.batch,))
    index = np.random.default_rng(0).permutation(case.images)[: case.batch]
    view = np.zeros_like(index)
    teacher = create(case.teacher, classes=case.classes, image_shape=case.shape)
    student = create(case.student, classes=case.classes, image_shape=case.shape)
    live = LiveTeacher(teacher, normalize)
    width = embedding_width(teacher)
    stored = random_store(folder, images=case.images, width=width, classes=case.classes, device=torch.device("cpu"))

    def step(teacher: Teacher, student: nn.Module) -> Callable[[], object]:
        recipe = Recipe(
            epochs=1, batch_size=case.batch, optimizer="adamw", learning_rate=1e-4, weight_decay=0.05, clip_gradient=5.0
        )
        task = RSDDistiller(student, Setting(teacher_width=width)).train()
        stepper = Stepper(task, recipe, ComputeOptions(), normalize=normalize, teacher=teacher, steps_per_epoch=1000)
        return lambda: stepper.step(raw, target, index, view, number=0)

    return {"stored": step(stored, copy.deepcopy(student)), "live": step(live, copy.deepcopy(student))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            steps_of_case = steps(case, Path(folder))
            times = interleaved(steps_of_case, rounds=arguments.rounds, warmup=1, clock=CLOCKS[arguments.clock])
        rows.append(
            {
                "pair": name,
                "batch": str(case.batch),
                "stored, s": spread(times["stored"]),
                "live, s": spread(times["live"]),
                "live / stored": spread(times["live"] / times["stored"]),
            }
        )
    print(f"{arguments.clock} clock, {arguments.rounds} rounds\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
