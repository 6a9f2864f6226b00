"""The loop: trains a task on views of images, selects on validation, survives a kill."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rsd.machine import parallel
from rsd.machine.compute import ComputeOptions
from rsd.machine.progress import progress
from rsd.methods.base import Distiller
from rsd.models.features import StagedOutputs
from rsd.models.predict import predict_together
from rsd.models.timm_model import Outputs, PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.training import checkpoint
from rsd.training.health import Log, check_validation, check_varied, is_stale, mean_row, peak_megabytes
from rsd.training.recipe import Recipe
from rsd.training.stepper import Stepper
from rsd.views.augment import ViewChoice
from rsd.views.batches import Plan, batch_count, batches, epoch_plan

Teacher = Callable[[Tensor, np.ndarray, np.ndarray], Outputs | StagedOutputs]
"""The teacher's outputs for a batch of raw views `[B, H, W, C]`, given their indices and view numbers `[B]`."""


class Trained(NamedTuple):
    """What training leaves: the selected weights, and one row per epoch."""

    student: dict[str, Tensor]
    """State dict of the student alone; of its average where the recipe has one."""
    scaffold: dict[str, Tensor]
    """State dict of what was trained beside it, at the selected epoch."""
    history: pd.DataFrame
    selected: dict[str, float]
    """The selected epoch's row: epoch, validation_top1, validation_loss ..."""
    steps: int
    """Updates that were made."""


@dataclass
class Progress:
    """What a run has behind it; with the stepper's state, all that is needed to go on."""

    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    times: list[dict[str, float]] = field(default_factory=list)
    """Beside each row of the history; of no consequence for it."""
    done: int = 0
    """Steps of the epoch that is not in the history yet, and their sums:"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, terms: dict[str, Tensor], seconds: float) -> None:
        self.sums = {key: self.sums[key] + value if key in self.sums else value for key, value in terms.items()}
        self.done += 1
        self.seconds += seconds

    def end_epoch(self, row: dict[str, float], times: dict[str, float]) -> None:
        self.history.append(row)
        self.times.append(times)
        self.done, self.sums, self.seconds = 0, {}, 0.0


def train(
    task: Distiller,
    images: LabelledImages,
    validation: LabelledImages,
    recipe: Recipe,
    *,
    normalize: PixelNormalize,
    seed: int,
    view_choice: ViewChoice,
    teacher: Teacher | None = None,
    state: Path | None = None,
    save_seconds: float = 300.0,
    logs: Path | None = None,
    compute: ComputeOptions | None = None,
    name: str = "",
) -> Trained:
    """Train `task` by `recipe`; a run that is killed and started again ends with the same bits.

    Each of several processes calls it with the same arguments and trains on its share of every batch; all return
    the same, and the leading one writes.

    Args:
        task: on the device where it is to be trained.
        normalize: raw pixels to the student's input, on the same device.
        seed: of the batches' order and of dropout.
        view_choice: which views the images are seen in.
        teacher: asked for its outputs at each step; None for a method that needs none.
        state: the checkpoint file of this run; None keeps none.
        save_seconds: longest time between two checkpoints; one is written after each epoch, too.
        logs: folder of the log with times; None keeps none.
        compute: precision, memory format, compilation, and the processes that prepare batches.
        name: what the progress bar and the log are called.

    Raises:
        UserError: the loss is not finite, the student has collapsed, there are fewer images than one batch, the batch
            cannot be shared out, or a checkpoint cannot be written.
    """
    device = task.device
    steps = batch_count(len(images.labels), recipe.batch_size)
    compute = compute or ComputeOptions()
    stepper = Stepper(task, recipe, compute, normalize=normalize, teacher=teacher, steps_per_epoch=steps)
    averaged = stepper.has_average
    run = Progress()
    # Dropout differs from process to process; the leading one's is that of a lone process.
    torch.manual_seed(
        seed if parallel.leads() else int(np.random.SeedSequence([seed, parallel.rank()]).generate_state(1)[0])
    )

    saved = checkpoint.load(state) if state else None
    if saved:
        run = Progress(**saved["progress"])
        run.sums = {key: value.to(device) for key, value in run.sums.items()}
        stepper.load(saved["stepper"], steps=len(run.history) * steps + run.done)
        if parallel.leads():
            inside = f" and {run.done} of {steps} steps" if run.done else ""
            print(f"{name}: resumed after epoch {len(run.history)} of {recipe.epochs}{inside}", file=sys.stderr)

    def save() -> None:
        content = {"progress": vars(run), "stepper": stepper.state()}
        if state and parallel.leads():
            checkpoint.save(state, content)

    leads = parallel.leads()
    log = Log(logs if leads else None, name, epochs=len(run.history))
    share = parallel.own_share(recipe.batch_size)
    last_save = time.monotonic()
    total, before = recipe.epochs * steps, len(run.history) * steps + run.done
    plan = partial(_own_plan, share=share, images=len(images.labels), recipe=recipe, seed=seed, view_choice=view_choice)
    served = batches(
        images,
        plan,
        steps,
        recipe.augment,
        seed=view_choice.seed,
        numbers=range(before, total),
        workers=compute.workers,
    )
    with progress(
        total=total * recipe.batch_size, done=before * recipe.batch_size, name=name, unit="images", shown=leads
    ) as bar:
        while len(run.history) < recipe.epochs and not is_stale(run.history, recipe.patience):
            epoch = len(run.history)
            task.train()
            clock = time.perf_counter()
            while run.done < steps:
                terms = stepper.step(*next(served), number=epoch * steps + run.done)
                now = time.perf_counter()
                run.add(terms, now - clock)
                clock = now
                bar.update(recipe.batch_size)
                if state and run.done < steps and _is_due(time.monotonic() - last_save > save_seconds, device):
                    save()
                    last_save, clock = time.monotonic(), time.perf_counter()
            model = task.get_eval_model(ema=averaged)
            logits = predict_together(
                model, normalize, validation.images, batch_size=recipe.batch_size, workers=compute.workers
            )
            row = {
                "epoch": float(epoch + 1),
                "learning_rate": stepper.learning_rate,
                **mean_row(run.sums, steps=steps),
                **_scores(logits, validation.labels),
            }
            check_validation(row["validation_loss"], step=(epoch + 1) * steps, last=stepper.last)
            check_varied(
                logits, epoch=epoch + 1, warmup_epochs=recipe.warmup_epochs, step=(epoch + 1) * steps, last=stepper.last
            )
            times = {
                "images_per_second": steps * recipe.batch_size / run.seconds,
                "seconds": run.seconds,
                "peak_megabytes": peak_megabytes(device),
            }
            run.end_epoch(row, times)
            bar.set_postfix_str(f"validation {row['validation_top1']:.1f} %", refresh=False)
            if not run.best or recipe.select == "last" or row["validation_top1"] > run.best["row"]["validation_top1"]:
                run.best = {"row": row, "student": _copy(model), "scaffold": _scaffold(task, averaged)}
            if state:
                save()
                last_save = time.monotonic()
            log.write([row | times for row, times in zip(run.history, run.times, strict=True)])
    return Trained(
        run.best["student"],
        run.best["scaffold"],
        pd.DataFrame(run.history),
        run.best["row"],
        len(run.history) * steps,
    )


def _own_plan(epoch: int, *, share: slice, images: int, recipe: Recipe, seed: int, view_choice: ViewChoice) -> Plan:
    """This process's share of every batch of an epoch."""
    whole = epoch_plan(epoch, images, recipe.batch_size, recipe.augment, seed=seed, view_choice=view_choice)
    return Plan([part[share] for part in whole.images], [part[share] for part in whole.views])


def _is_due(due: bool, device: torch.device) -> bool:
    """Whether to save now: as the leading process's clock says, since all take part."""
    return due if parallel.processes() == 1 else bool(parallel.all_of(torch.tensor(due, device=device))[0])


@torch.no_grad()
def validate(
    model: nn.Module, normalize: PixelNormalize, images: LabelledImages, *, batch_size: int, workers: int = 0
) -> dict[str, float]:
    """Top-1 in per cent and mean cross-entropy on a split, without augmentation.

    Several processes take a share of the images each; the numbers are those of one, and the same in all.
    """
    logits = predict_together(model, normalize, images.images, batch_size=batch_size, workers=workers)
    return _scores(logits, images.labels)


def _scores(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    wanted = torch.from_numpy(labels)
    return {
        "validation_top1": 100 * float((logits.argmax(dim=1) == wanted).double().mean()),
        "validation_loss": float(nn.functional.cross_entropy(logits.double(), wanted)),
    }


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def _scaffold(task: Distiller, averaged: bool = False) -> dict[str, Tensor]:
    """The task state, flat."""
    return {
        f"{part}.{key}": value.detach().cpu().clone()
        for part, tensors in task.get_task_state(ema=averaged).items()
        for key, value in tensors.items()
    }
