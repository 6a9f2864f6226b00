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

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.task import FeatureDistillationTask
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.command import CLOCKS, Clock, command
from benchmarks.interleaved import interleaved, markdown, spread
from benchmarks.pair import Bench, Case, bench
from rsd.methods.base import Distiller
from rsd.models.make import ModelOptions
from rsd.training.loop import Teacher
from rsd.training.recipe import Recipe, make_optimizer

TARGET = 1.05
TEACHER = "swin_tiny_patch4_window7_224"
OPTIMIZERS = {"resnet18": "sgd", "resmlp_12_224": "adamw"}  # each student's own in the CIFAR recipes

Step = Callable[[], None]


def updated(task: Any, pair: Bench, forward: Callable[[], dict[str, Tensor]]) -> Step:
    """A whole step of `task`, whose losses `forward` gives."""
    recipe = Recipe(
        epochs=1, batch_size=pair.case.batch, optimizer=pair.case.optimizer, learning_rate=1e-4, weight_decay=0.05
    )
    optimizer = make_optimizer(task.trainable_module, recipe)

    def step() -> None:
        result = forward()
        optimizer.zero_grad(set_to_none=True)
        result["loss"].backward()
        clip_grad_norm_(task.get_clip_parameters(), 5.0)
        optimizer.step()

    return step


def bare_step(task: Distiller, pair: Bench, teacher: Teacher | None) -> Step:
    """A step without what `rsd.training.stepper` adds: checks, log, schedule."""
    task.train()
    batch = (pair.raw, pair.index, pair.view)

    def forward() -> dict[str, Tensor]:
        taught = teacher(*batch) if teacher else None
        return task(pair.normalize(pair.raw), pair.target, taught, logged=False)

    return updated(task, pair, forward)


def steps(pair: Bench) -> dict[str, Step]:
    """Every way to train the student for a step, by name."""
    batch, live = (pair.raw, pair.index, pair.view), pair.live()
    theirs = FeatureDistillationTask(
        copy.deepcopy(pair.student), pair.teacher, criterion=nn.CrossEntropyLoss(), verbose=False
    )
    theirs.train()
    scratch_beside = bare_step(pair.scratch(), pair, None)

    def scratch_and_teacher() -> None:
        live(*batch)
        scratch_beside()

    return {
        "scratch": bare_step(pair.scratch(), pair, None),
        "stored": bare_step(pair.rsd(), pair, pair.stored),
        "scratch + teacher": scratch_and_teacher,
        "live": bare_step(pair.rsd(), pair, live),
        "timm": updated(theirs, pair, lambda: theirs(pair.normalize(pair.raw), pair.target)),
    }


def main(rounds: int = 15, clock: Clock = "wall") -> None:
    torch.set_num_threads(1)
    rows = []
    for name, optimizer in OPTIMIZERS.items():
        case = Case(ModelOptions(name=TEACHER), ModelOptions(name=name), optimizer, batch=16, images=64)
        with tempfile.TemporaryDirectory() as folder:
            ways = steps(bench(case, Path(folder), torch.device("cpu")))
            times = interleaved(ways, rounds=rounds, warmup=1, clock=CLOCKS[clock])
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
    print(f"{clock} clock, {rounds} rounds\n\n{markdown(rows)}")


if __name__ == "__main__":
    command(main, __doc__)
