"""What a step of each method costs beside a plain one, the teacher's outputs from a view store.

    python -m benchmarks.method_steps                          # the digits' pair and ResNet18 at 224 x 224, batch 16
    python -m benchmarks.method_steps --only "digits, 16 px"
    python -m benchmarks.method_steps --method rsd --method bare --method "AAD alone"
    python -m benchmarks.method_steps --clock cpu              # on a machine that does other work meanwhile

Ten minutes on one quiet core. Untrained models, float32, one CPU thread. A step is `rsd.training.stepper`'s own, with
its checks and its log, on one batch. Ten of the small pair's steps, as in a training one after the other, take turns
with as many plain ones; the ratio is the median within a turn. FitNet
compares feature maps, which no store holds: its row runs the teacher, and so does the plain step beside it.
"AAD alone" trains RSD's scaffold with the mean of its output as the loss: what scaffold and optimiser cost, without
the correlation. "bare" is RSD's loss, AAD and optimiser without the stepper's checks, log and schedule, beside a plain
step without them.
"""

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.command import CLOCKS, Clock, command, named
from benchmarks.interleaved import interleaved, markdown, spread
from benchmarks.pair import Bench, Case, bench
from benchmarks.rsd_step import bare_step
from benchmarks.view_store import CASES as STORE_CASES
from rsd.methods import distiller, methods
from rsd.methods.base import Distiller, Setting, Step
from rsd.methods.rsd import RSDDistiller
from rsd.models.features import stage_shapes
from rsd.models.make import ModelOptions
from rsd.models.outputs import embedding_width
from rsd.teacher.store import LiveTeacher

PLAIN = "scratch"
CASES = {
    "digits, 16 px": STORE_CASES["digits, 16 px"],
    "Swin-T, ResNet18, 224 px": Case(
        ModelOptions(name="swin_tiny_patch4_window7_224"), ModelOptions(name="resnet18"), "sgd", batch=16, images=64
    ),
}
ROUNDS = {"digits, 16 px": 40, "Swin-T, ResNet18, 224 px": 7}
STEPS = {"digits, 16 px": 10, "Swin-T, ResNet18, 224 px": 1}
"""In a turn."""


class AADAlone(RSDDistiller):
    """Trains the scaffold without the correlation."""

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        student, _ = step.adapted["embedding"]
        return student.mean(), {}


BARE, AAD_ALONE = "bare", "AAD alone"
BESIDE = {BARE: "bare scratch"}
"""What a row is timed beside, if not the plain step."""


def kinds() -> dict[str, type[Distiller]]:
    """What is timed, the plain step first."""
    names = [name for name in methods() if name != PLAIN]
    return {PLAIN: distiller(PLAIN), AAD_ALONE: AADAlone} | {name: distiller(name) for name in names}


def rows_of_the_table() -> list[str]:
    """All that is timed beside a plain step."""
    return [BARE, *(name for name in kinds() if name != PLAIN)]


def setting_of(pair: Bench) -> Setting:
    """All that any method needs to know."""
    return Setting(
        teacher_width=embedding_width(pair.teacher),
        teacher_stages=stage_shapes(pair.teacher, pair.case.shape),
        image_shape=pair.case.shape,
        image_count=pair.case.images,
    )


def steps(pair: Bench) -> dict[str, Callable[[], object]]:
    """A step of each method on a copy of the student; "scratch + teacher" is the plain one that runs the teacher."""
    setting = setting_of(pair)
    runs: dict[str, Callable[[], object]] = {}
    for name, kind in kinds().items():
        task = kind(copy.deepcopy(pair.student), setting)
        live = LiveTeacher(pair.teacher, pair.normalize, staged=True) if "stages" in kind.needs else None
        runs[name] = pair.step(task, live or (pair.stored if kind.needs else None))
    live, plain = LiveTeacher(pair.teacher, pair.normalize, staged=True), pair.step(pair.scratch(), None)

    def plain_and_teacher() -> None:
        live(pair.raw, pair.index, pair.view)
        plain()

    return runs | {
        "scratch + teacher": plain_and_teacher,
        BARE: bare_step(pair.rsd(), pair, pair.stored),
        BESIDE[BARE]: bare_step(pair.scratch(), pair, None),
    }


def repeat(step: Callable[[], object], count: int) -> None:
    """So many steps."""
    for _ in range(count):
        step()


def compare(name: str, timed: list[str], rounds: int, clock: Clock) -> list[dict[str, str]]:
    """A row per method."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        runs = steps(bench(CASES[name], Path(folder), torch.device("cpu")))
        staged = {method for method, kind in kinds().items() if "stages" in kind.needs}
        for method in timed:
            beside = BESIDE.get(method, "scratch + teacher" if method in staged else PLAIN)
            # Two at a time: a memory bank would empty the caches for all others.
            both = {one: partial(repeat, runs[one], STEPS[name]) for one in (beside, method)}
            times = interleaved(both, rounds=rounds, warmup=2, clock=CLOCKS[clock]) / STEPS[name]
            low, middle, high = np.percentile(times[method] / times[beside], [25, 50, 75])
            ratio = {"times the plain step": f"{middle:.3f} ({low:.3f} to {high:.3f})"}
            times_of_both = {
                "ms": spread(1000 * times[method]),
                "beside": beside,
                "its ms": spread(1000 * times[beside]),
            }
            rows.append({"pair": name, "method": method, **times_of_both, **ratio})
    return rows


def main(
    only: Annotated[list[str] | None, typer.Option(help="A pair of the table; may be repeated.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="A row of the table; may be repeated.")] = None,
    rounds: int | None = None,
    clock: Clock = "wall",
) -> None:
    torch.set_num_threads(1)
    pairs, timed = named(only, CASES), named(method, rows_of_the_table())
    rows = [row for name in pairs for row in compare(name, timed, rounds or ROUNDS[name], clock)]
    print(f"{clock} clock\n\n{markdown(rows)}")


if __name__ == "__main__":
    command(main, __doc__)
