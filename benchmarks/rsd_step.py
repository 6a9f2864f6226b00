"""What a step of RSD costs beside plain training, at the size of the paper's models.

    python -m benchmarks.rsd_step
    python -m benchmarks.rsd_step --clock cpu --rounds 7   # on a machine that does other work meanwhile

About ten minutes on one quiet core. Untrained models at 224 x 224, batch 16, float32, one CPU
thread. A step is what `rsd.training.loop` does: normalise raw pixels, ask the teacher, forward, backward, clip, update.
Four ways to train and the plain step with a teacher's forward pass behind it run turn by turn, each on a copy of
the same student. Times are medians with quartiles, a ratio is the median of the ratios within a turn.

- *stored* looks the teacher's embedding up in a view store on disk, *live* runs a Swin-T on the same pixels.
- *timm* is `timm.task.FeatureDistillationTask` on the same pair: mean squared error behind a linear projection.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.task import FeatureDistillationTask
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.interleaved import interleaved, markdown, spread
from benchmarks.random_store import random_store
from rsd.methods.base import Distiller, Setting
from rsd.methods.rsd import RSDDistiller
from rsd.methods.scratch import ScratchDistiller
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import embedding_width
from rsd.models.pixels import PixelNormalize
from rsd.teacher.store import LiveTeacher, StoredTeacher
from rsd.training.loop import Teacher
from rsd.training.recipe import Recipe, make_optimizer

TARGET = 1.05
TEACHER = "swin_tiny_patch4_window7_224"
OPTIMIZERS = {"resnet18": "sgd", "resmlp_12_224": "adamw"}  # each student's own in the CIFAR recipes
BATCH, IMAGES, CLASSES, SHAPE = 16, 64, 100, (224, 224, 3)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Step = Callable[[], None]


def updated(task: Any, optimizer: str, forward: Callable[[], dict[str, Tensor]]) -> Step:
    """A whole step of `task`, whose losses `forward` gives."""
    recipe = Recipe(epochs=1, batch_size=BATCH, optimizer=optimizer, learning_rate=1e-4, weight_decay=0.05)
    stepper = make_optimizer(task.trainable_module, recipe)

    def step() -> None:
        result = forward()
        stepper.zero_grad(set_to_none=True)
        result["loss"].backward()
        clip_grad_norm_(task.get_clip_parameters(), 5.0)
        stepper.step()

    return step


def steps(student: nn.Module, optimizer: str, teacher: nn.Module, store: StoredTeacher) -> dict[str, Step]:
    """Every way to train `student` for a step, by name."""
    normalize = PixelNormalize([0.5] * 3, [0.25] * 3)
    raw = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8)
    target = torch.randint(0, CLASSES, (BATCH,))
    index = np.random.default_rng(0).permutation(IMAGES)[:BATCH]
    view = np.zeros_like(index)
    live, width = LiveTeacher(teacher, normalize), embedding_width(teacher)

    def ours(task: Distiller, teacher: Teacher | None) -> Step:
        task.train()
        return updated(
            task,
            optimizer,
            lambda: task(normalize(raw), target, teacher(raw, index, view) if teacher is not None else None),
        )

    theirs = FeatureDistillationTask(copy.deepcopy(student), teacher, criterion=nn.CrossEntropyLoss(), verbose=False)
    theirs.train()
    scratch_beside = ours(ScratchDistiller(copy.deepcopy(student)), None)

    def scratch_and_teacher() -> None:
        live(raw, index, view)
        scratch_beside()

    return {
        "scratch": ours(ScratchDistiller(copy.deepcopy(student)), None),
        "stored": ours(RSDDistiller(copy.deepcopy(student), Setting(teacher_width=width)), store),
        "scratch + teacher": scratch_and_teacher,
        "live": ours(RSDDistiller(copy.deepcopy(student), Setting(teacher_width=width)), live),
        "timm": updated(theirs, optimizer, lambda: theirs(normalize(raw), target)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = create(ModelOptions(name=TEACHER), classes=CLASSES, image_shape=SHAPE).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = random_store(
            Path(folder), images=IMAGES, width=embedding_width(teacher), classes=CLASSES, device=torch.device("cpu")
        )
        for name, optimizer in OPTIMIZERS.items():
            student = create(ModelOptions(name=name), classes=CLASSES, image_shape=SHAPE)
            times = interleaved(
                steps(student, optimizer, teacher, store),
                rounds=arguments.rounds,
                warmup=1,
                clock=CLOCKS[arguments.clock],
            )
            for step, beside in (("stored", "scratch"), ("live", "scratch + teacher"), ("live", "timm")):
                rows.append(
                    {
                        "student": name,
                        "RSD step": step,
                        "s": spread(times[step]),
                        "beside": beside,
                        "its s": spread(times[beside]),
                        "ratio": spread(times[step] / times[beside], digits=4),
                        "target": f"{TARGET:g}",
                    }
                )
    print(f"{arguments.clock} clock, {arguments.rounds} rounds\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
