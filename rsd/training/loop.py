"""The loop: trains a task on views of images, selects on validation, survives a kill."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rsd.machine import parallel
from rsd.machine.compute import ComputeOptions
from rsd.machine.progress import progress
from rsd.methods.base import Distiller
from rsd.models.features import StagedOutputs
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict_together
from rsd.sources.images import LabelledImages
from rsd.training.health import Log, check_validation, check_varied, has_stalled, mean_row, one_class, peak_megabytes
from rsd.training.recipe import Recipe, part_size
from rsd.training.resume import Saver, TrainingState
from rsd.training.stepper import Stepper
from rsd.views.augment import ViewChoice
from rsd.views.batches import (
    Batch,
    EpochPlan,
    Portions,
    batch_count,
    batches,
    epoch_plan,
    partly_labelled_plan,
    portions,
)
from rsd.views.on_device import device_batches, fits

Teacher = Callable[[Tensor, np.ndarray, np.ndarray], Outputs | StagedOutputs]
"""The teacher's outputs for a batch of raw views `[B, H, W, C]`, given their indices and view numbers `[B]`."""


@dataclass(frozen=True)
class Data:
    """The images that a student learns from and is selected by."""

    train: LabelledImages
    validation: LabelledImages
    normalize: PixelNormalize
    """Raw pixels to the student's input, on the task's device."""


@dataclass(frozen=True)
class Session:
    """How a training goes, beside its recipe."""

    seed: int
    """Of the batches' order and of dropout."""
    views: ViewChoice
    """Which views the images are seen in."""
    teacher: Teacher | None = None
    """Asked for its outputs at each step; None for a method that needs none."""
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    """Precision, memory format, compilation, and the processes that prepare batches."""
    state: Path | None = None
    """The checkpoint file of this run; None keeps none."""
    save_seconds: float = 300.0
    """Longest time between two checkpoints; one is written after each epoch, too."""
    logs: Path | None = None
    """Folder of the log with times; None keeps none."""
    name: str = ""
    """What the progress bar and the log are called."""


class Trained(NamedTuple):
    """What training leaves: the selected weights, and one row per epoch."""

    student: dict[str, Tensor]
    """State dict of the student alone; of its average where the recipe has one."""
    scaffold: dict[str, Tensor]
    """State dict of what was trained beside it, at the selected epoch."""
    history: list[dict[str, float]]
    selected: dict[str, float]
    """The selected epoch's row: epoch, validation_top1, validation_loss ..."""
    steps: int
    """Updates that were made."""
    batch_size: int
    """Images in each, over all processes."""


def train(task: Distiller, data: Data, recipe: Recipe, session: Session) -> Trained:
    """Train `task` by `recipe`; a run that is killed and started again ends with the same bits.

    Each of several processes calls it with the same arguments and trains on its share of every batch; all return
    the same, and the leading one writes.

    Args:
        task: on the device where it is to be trained.

    Raises:
        UserError: the loss is not finite, the student has collapsed, there are fewer images than one batch, the batch
            cannot be shared out, or a checkpoint cannot be written.
    """
    steps, leads = batch_count(len(data.train.labels), recipe.batch_size), parallel.leads()
    shared = _portions(data.train.labels, recipe, taught=bool(task.needs))
    stepper = Stepper(
        task,
        recipe,
        session.compute,
        normalize=data.normalize,
        teacher=session.teacher,
        shared=shared,
        steps_per_epoch=steps,
    )
    # Dropout differs from process to process; the leading one's is that of a lone process.
    own_seed = np.random.SeedSequence([session.seed, parallel.rank()]).generate_state(1)[0]
    torch.manual_seed(session.seed if leads else int(own_seed))
    saver = Saver(session.state, stepper, seconds=session.save_seconds)
    run = saver.load(steps=steps, epochs=recipe.epochs, name=session.name)
    log = Log(session.logs if leads else None, session.name, epochs=len(run.history))
    numbers = range(len(run.history) * steps + run.done, recipe.epochs * steps)
    views = _served(data.train, recipe, session, shared, steps, numbers, stepper.device)
    served = _with_rows_ahead(views, stepper)
    with progress(
        total=numbers.stop * shared.batch_size,
        done=numbers.start * shared.batch_size,
        name=session.name,
        unit="images",
        shown=leads,
    ) as bar:
        while len(run.history) < recipe.epochs and not has_stalled(run.history, recipe.patience):
            task.train()
            clock = time.perf_counter()
            while run.done < steps:
                terms = stepper.step(*next(served), number=len(run.history) * steps + run.done)
                now = time.perf_counter()
                run.add(terms, now - clock)
                clock = now
                bar.update(shared.batch_size)
                if run.done < steps and saver.is_due():
                    saver.save(run)
                    clock = time.perf_counter()
            _end_epoch(run, stepper, data, steps, shared.batch_size, session)
            bar.set_postfix_str(f"validation {run.history[-1]['validation_top1']:.1f} %", refresh=False)
            log.write(run.logged())  # first: a run that is killed between the two trains the epoch again
            saver.save(run)
    return Trained(
        **run.best["weights"],
        history=run.history,
        selected=run.best["row"],
        steps=len(run.history) * steps,
        batch_size=shared.batch_size,
    )


def _portions(labels: np.ndarray, recipe: Recipe, *, taught: bool) -> Portions:
    """What each batch holds. Without a teacher, the labelled images of the batches that a teacher's student gets."""
    parts = parallel.processes() * recipe.accumulation
    size = part_size(recipe, processes=parallel.processes())
    share, repeats = recipe.labelled_share, recipe.augment.repeats
    shared = portions(labels, size=size, parts=parts, labelled_share=share, repeats=repeats)
    return shared if taught else shared._replace(unlabelled=0)


def _served(
    images: LabelledImages,
    recipe: Recipe,
    session: Session,
    shared: Portions,
    steps: int,
    numbers: range,
    device: torch.device,
) -> Iterator[Batch]:
    """This process's share of the batches of these numbers."""
    if (images.labels >= 0).all():
        plan = partial(epoch_plan, images=len(images.labels), batch_size=recipe.batch_size)
    else:
        plan = partial(partly_labelled_plan, labels=images.labels, shared=shared, steps=steps)
    whole = partial(plan, augment=recipe.augment, seed=session.seed, view_choice=session.views)
    own = partial(_own_plan, plan=whole, share=parallel.own_share(shared.batch_size))
    seed, workers = session.views.seed, session.compute.workers
    if fits(images, recipe.augment, device):
        return device_batches(images, own, steps, recipe.augment, device, seed=seed, numbers=numbers)
    return batches(images, own, steps, recipe.augment, seed=seed, numbers=numbers, workers=workers)


def _with_rows_ahead(served: Iterator[Batch], stepper: Stepper) -> Iterator[Batch]:
    """The same batches. The teacher's rows of each are read while the student learns from the one before."""
    previous = None
    for batch in served:
        stepper.prefetch(batch.images, batch.views)
        if previous is not None:
            yield previous
        previous = batch
    if previous is not None:
        yield previous


def _own_plan(epoch: int, *, plan: Callable[[int], EpochPlan], share: slice) -> EpochPlan:
    """This process's share of every batch of an epoch."""
    whole = plan(epoch)
    return EpochPlan([part[share] for part in whole.images], [part[share] for part in whole.views])


def _end_epoch(run: TrainingState, stepper: Stepper, data: Data, steps: int, batch_size: int, session: Session) -> None:
    """Validate, add the epoch to the history, and keep its weights if it is the one to select so far."""
    recipe, task, epoch = stepper.recipe, stepper.task, len(run.history) + 1
    model = task.get_eval_model(ema=stepper.has_average)
    logits = predict_together(
        model, data.normalize, data.validation.images, batch_size=recipe.batch_size, workers=session.compute.workers
    )
    row = {
        "epoch": float(epoch),
        "learning_rate": stepper.learning_rate,
        **mean_row(run.sums, run.counts),
        **_scores(logits, data.validation.labels),
    }
    check_validation(row["validation_loss"], step=epoch * steps, last=stepper.last)
    check_varied(logits, epoch=epoch, warmup_epochs=recipe.warmup_epochs, step=epoch * steps, last=stepper.last)
    warning = one_class(
        logits, data.validation.labels, data.validation.classes, epoch=epoch, warmup_epochs=recipe.warmup_epochs
    )
    if warning and not run.warned and parallel.leads():
        print(f"warning: {session.name or 'training'}: {warning}", file=sys.stderr)
    run.warned = run.warned or bool(warning)
    times = {
        "images_per_second": steps * batch_size / run.seconds,
        "seconds": run.seconds,
        "peak_megabytes": peak_megabytes(stepper.device),
    }
    run.end_epoch(row, times)
    if not run.best or recipe.select == "last" or row["validation_top1"] > run.best["row"]["validation_top1"]:
        student = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        scaffold = task.scaffold_state(ema=stepper.has_average)
        run.best = {"row": row, "weights": {"student": student, "scaffold": scaffold}}


@torch.no_grad()
def validate(
    model: nn.Module, normalize: PixelNormalize, images: LabelledImages, *, batch_size: int, workers: int = 0
) -> dict[str, float]:
    """Top-1 in per cent and mean cross-entropy on a split, without augmentation.

    Several processes take a share of the images each. All return the numbers that one process would.
    """
    logits = predict_together(model, normalize, images.images, batch_size=batch_size, workers=workers)
    return _scores(logits, images.labels)


def _scores(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    target = torch.from_numpy(labels)
    return {
        "validation_top1": 100 * float((logits.argmax(dim=1) == target).double().mean()),
        "validation_loss": float(nn.functional.cross_entropy(logits.double(), target)),
    }
