"""Is the training healthy? The checks that stop it, and the log that a person watches."""

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsd.machine.errors import UserError
from rsd.machine.files import write_table

CONSTANT = 1e-5  # outputs that differ by less than this share of the largest one differ by rounding only


def check_finite(
    terms: Mapping[str, Tensor],
    gradient_norm: Tensor | None,
    *,
    step: int,
    last: Mapping[str, Tensor | float],
    hint: str = "",
) -> None:
    """Stop at a loss or a gradient that is not finite.

    Args:
        terms: scalars of the step, `loss` among them.
        gradient_norm: over all parameters; None where the scaling of fp16 deals with it.
        last: finite values from before; may be empty.
        hint: what else the user can do, besides a lower learning rate.

    Raises:
        UserError: names the step, the terms that are not finite, `last`, and what to do.
    """
    checked = {"loss": terms["loss"]} | ({} if gradient_norm is None else {"gradient_norm": gradient_norm})
    if bool(torch.isfinite(torch.stack([value.to(terms["loss"].dtype) for value in checked.values()])).all()):
        return
    name = next(key for key, value in checked.items() if not torch.isfinite(value))
    broken = ", ".join(key for key, value in (dict(terms) | checked).items() if not torch.isfinite(value).all())
    raise UserError(
        f"expected a finite {name.replace('_', ' ')}, found {float(checked[name])} at step {step} (not finite: "
        f"{broken}; last finite values: {_values(last)}); lower recipe.learning_rate or set recipe.clip_gradient, "
        f"{hint}and check the images and the teacher"
    )


def check_validation(loss: float, *, step: int, last: Mapping[str, Tensor | float]) -> None:
    """Stop at a validation loss, measured after `step`, that is not finite; `last` are values of that step."""
    if not math.isfinite(loss):
        raise UserError(
            f"expected a finite validation loss, found {loss} after step {step} (last values of training: "
            f"{_values(last)}); lower recipe.learning_rate or set recipe.clip_gradient, and check the validation images"
        )


def check_varied(
    logits: Tensor, *, epoch: int, warmup_epochs: int, step: int, last: Mapping[str, Tensor | float]
) -> None:
    """Stop at a collapsed student: the same logits `[N, classes]` for all validation images after the warm-up.

    A model that begins with logits of exactly 0, as timm's MLPs do, gives different ones after its first update.
    """
    if epoch <= warmup_epochs or len(logits) < 2:
        return
    spread = float((logits.amax(dim=0) - logits.amin(dim=0)).max())
    if spread <= CONSTANT * float(logits.abs().max()):
        raise UserError(
            f"expected a student that tells images apart, found the same output for all {len(logits)} validation "
            f"images after step {step} (last values: {_values(last)}): it has collapsed; lower recipe.learning_rate or "
            "the method's weight, or lengthen recipe.warmup_epochs"
        )


def one_class(
    logits: Tensor, labels: np.ndarray, classes: Sequence[str], *, epoch: int, warmup_epochs: int
) -> str | None:
    """A warning where all validation images, of logits `[N, classes]`, get one class after the warm-up; else None."""
    answers = logits.argmax(dim=1)
    if epoch <= warmup_epochs or bool((answers != answers[0]).any()) or not (labels != labels[0]).any():
        return None
    name = classes[int(answers[0])]
    return (
        f"after epoch {epoch} the student gives the class '{name}' for all {len(labels)} validation images: it has "
        "collapsed, or has learned nothing yet; if it stays so, lower recipe.learning_rate or the method's weight, "
        "or lengthen recipe.warmup_epochs"
    )


def _values(last: Mapping[str, Tensor | float]) -> str:
    return ", ".join(f"{key} {float(value):.4g}" for key, value in last.items()) or "none yet"


class Log:
    """The history with times, as it grows: a table of one row per epoch, and TensorBoard's events if it is installed.

    It is not the `history.csv` that DVC tracks. A time in that file would make two runs of the same bits differ.

    Args:
        folder: for `{name}.csv` and the folder `{name}` with the events; None logs nothing.
        epochs: done by the run that is resumed. Later rows are removed.
    """

    def __init__(self, folder: Path | None, name: str, *, epochs: int = 0) -> None:
        self.path = folder / f"{name or 'run'}.csv" if folder else None
        self.events = _events(folder / (name or "run"), epochs) if folder else None

    def write(self, rows: list[dict[str, float]]) -> None:
        """Write all rows so far."""
        if self.path is None:
            return
        write_table(self.path, rows)
        if self.events and rows:
            for key, value in rows[-1].items():
                self.events.add_scalar(key, value, int(rows[-1]["epoch"]))
            self.events.flush()


def _events(folder: Path, epochs: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional, and seconds to import
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=epochs + 1)


def peak_megabytes(device: torch.device) -> float:
    """Peak memory so far: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kB, but on a Mac in bytes
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def has_stalled(history: list[dict[str, float]], patience: int | None) -> bool:
    """Whether validation has not improved for `patience` epochs."""
    if not history or patience is None:
        return False
    scores = [row["validation_top1"] for row in history]
    return len(scores) - 1 - scores.index(max(scores)) >= patience


def mean_row(sums: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, float]:
    """Means over the steps of an epoch that gave a scalar; the gradient norm's over those that were not skipped."""
    skipped = float(sums.get("skipped_steps", torch.zeros(())))
    row = {key: float(value) / counts[key] for key, value in sums.items()}
    if "skipped_steps" in sums:
        steps = counts["gradient_norm"]
        row["skipped_steps"] = skipped
        row["gradient_norm"] = float(sums["gradient_norm"]) / (steps - skipped) if skipped < steps else math.nan
    return row
