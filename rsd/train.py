"""The loop: trains a task on views of images, selects on validation, survives a kill."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from rsd import checkpoint
from rsd.data.augment import ViewChoice
from rsd.data.batches import batch_count, batches, epoch_plan
from rsd.data.images import LabelledImages
from rsd.distillers.base import Distiller
from rsd.errors import UserError
from rsd.features import StagedOutputs
from rsd.models import Outputs, PixelNormalize, predict
from rsd.progress import progress
from rsd.recipe import Recipe, make_optimizer, make_scheduler

Teacher = Callable[[Tensor, np.ndarray, np.ndarray], Outputs | StagedOutputs]
"""The teacher's outputs for a batch of raw views `[B, H, W, C]`, given their indices and view numbers `[B]`."""


class Trained(NamedTuple):
    """What training leaves: the selected weights, and one row per epoch."""

    student: dict[str, Tensor]
    """State dict of the student alone."""
    scaffold: dict[str, Tensor]
    """State dict of what was trained beside it, at the selected epoch."""
    history: pd.DataFrame
    selected: dict[str, float]
    """The selected epoch's row: epoch, validation_top1, validation_loss ..."""


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
    name: str = "",
    workers: int = 0,
) -> Trained:
    """Train `task` by `recipe`; a run that is killed and started again ends with the same bits.

    Args:
        task: on the device where it is to be trained.
        normalize: raw pixels to the student's input, on the same device.
        seed: of the batches' order and of dropout.
        view_choice: which views the images are seen in.
        teacher: asked for its outputs at each step; None for a method that needs none.
        state: the checkpoint file of this run; None keeps none.
        name: what the progress bar says.
        workers: processes that prepare batches.

    Raises:
        UserError: the loss is not finite, or there are fewer images than one batch.
    """
    device = task.device
    steps = batch_count(len(images.labels), recipe.batch_size)
    optimizer = make_optimizer(task.trainable_module, recipe)
    scheduler = make_scheduler(optimizer, recipe, steps_per_epoch=steps)
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {}
    torch.manual_seed(seed)

    saved = checkpoint.load(state) if state else None
    if saved:
        task.load_checkpoint_state(saved["student"], saved["scaffold"])
        optimizer.load_state_dict(saved["optimizer"])
        history, best = saved["history"], saved["best"]
        _set_random_state(saved["random"])
        scheduler.step_update(len(history) * steps)
        print(f"{name}: resumed after epoch {len(history)} of {recipe.epochs}", file=sys.stderr)

    epoch_images = steps * recipe.batch_size
    total, done = recipe.epochs * epoch_images, len(history) * epoch_images
    with progress(total=total, done=done, name=name, unit="images") as bar:
        for epoch in range(len(history), recipe.epochs):
            task.train()
            sums: dict[str, Tensor] = {}
            plan = epoch_plan(
                len(images.labels), recipe.batch_size, recipe.augment, seed=seed, epoch=epoch, view_choice=view_choice
            )
            served = batches(images, plan, recipe.augment, seed=view_choice.seed, workers=workers)
            for step, batch in enumerate(served):
                raw = batch.raw.to(device, non_blocking=True)
                target = batch.target.to(device, non_blocking=True)
                told = teacher(raw, batch.images, batch.views) if teacher else None
                index = torch.from_numpy(batch.images).to(device, non_blocking=True)
                result = task(normalize(raw), target, told, index)
                terms = {key: value.detach() for key, value in result.items() if key != "output"}
                _check_finite(terms, sums, step=epoch * steps + step, done=step)
                optimizer.zero_grad(set_to_none=True)
                result["loss"].backward()
                norm = clip_grad_norm_(task.get_clip_parameters(), recipe.clip_gradient or math.inf)
                optimizer.step()
                scheduler.step_update(epoch * steps + step + 1)
                for key, value in {**terms, "gradient_norm": norm.detach()}.items():
                    sums[key] = sums[key] + value if key in sums else value
                bar.update(len(batch.images))
            row = {
                "epoch": float(epoch + 1),
                "learning_rate": optimizer.param_groups[0]["lr"],
                **{key: float(value) / steps for key, value in sums.items()},
                **validate(task.get_eval_model(), normalize, validation, batch_size=recipe.batch_size),
            }
            if not math.isfinite(row["validation_loss"]):
                raise UserError(
                    f"expected a finite validation loss, found {row['validation_loss']} after epoch {epoch + 1}; "
                    "lower recipe.learning_rate or set recipe.clip_gradient"
                )
            history.append(row)
            bar.set_postfix_str(f"validation {row['validation_top1']:.1f} %", refresh=False)
            if not best or recipe.select == "last" or row["validation_top1"] > best["row"]["validation_top1"]:
                best = {"row": row, "student": _copy(task.get_eval_model()), "scaffold": _scaffold(task)}
            if state:
                checkpoint.save(state, _state(task, optimizer, history, best))
    return Trained(best["student"], best["scaffold"], pd.DataFrame(history), best["row"])


@torch.no_grad()
def validate(
    model: nn.Module, normalize: PixelNormalize, images: LabelledImages, *, batch_size: int
) -> dict[str, float]:
    """Top-1 in per cent and mean cross-entropy on a split, without augmentation."""
    logits = predict(model, normalize, images.images, batch_size=batch_size).logits
    labels = torch.from_numpy(images.labels)
    return {
        "validation_top1": 100 * float((logits.argmax(dim=1) == labels).double().mean()),
        "validation_loss": float(nn.functional.cross_entropy(logits.double(), labels)),
    }


def _check_finite(terms: dict[str, Tensor], sums: dict[str, Tensor], *, step: int, done: int) -> None:
    if bool(torch.isfinite(terms["loss"])):
        return
    broken = ", ".join(key for key, value in terms.items() if not torch.isfinite(value).all())
    last = ", ".join(f"{key} {float(value) / done:.4g}" for key, value in sums.items()) if done else "none yet"
    raise UserError(
        f"expected a finite loss, found {float(terms['loss'])} at step {step} (not finite: {broken}; means of this "
        f"epoch until then: {last}); lower recipe.learning_rate or set recipe.clip_gradient, "
        "and check the images and the teacher"
    )


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def _scaffold(task: Distiller) -> dict[str, Tensor]:
    """The task state, flat."""
    return {
        f"{part}.{key}": value.detach().cpu().clone()
        for part, tensors in task.get_task_state().items()
        for key, value in tensors.items()
    }


def _state(
    task: Distiller, optimizer: torch.optim.Optimizer, history: list[dict[str, float]], best: dict[str, Any]
) -> dict[str, Any]:
    return {
        "student": task.get_eval_model().state_dict(),
        "scaffold": task.get_task_state(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "best": best,
        "random": _random_state(),
    }


def _random_state() -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
