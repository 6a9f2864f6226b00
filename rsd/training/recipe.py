"""How a model is trained: its options, and timm's optimiser and learning-rate schedule made from them."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from rsd.machine.errors import UserError
from rsd.machine.options import Options
from rsd.views.augment import AugmentOptions


class Recipe(Options):
    """A training recipe, `conf/recipe/*.yaml`."""

    epochs: int = Field(gt=0, le=1_000_000)
    batch_size: int = Field(gt=1, le=1_000_000)
    """Images per step over all processes."""
    optimizer: str
    """timm's name of the optimiser: sgd, adamw, lamb ..."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """For optimisers that have one (sgd)."""
    learning_rate: float = Field(gt=0)
    min_learning_rate: float = Field(0.0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "step"] = "cosine"
    decay_epochs: int = Field(30, gt=0, le=1_000_000)
    """For `schedule: step`: the learning rate falls to a tenth each so many epochs."""
    warmup_epochs: int = Field(0, ge=0, le=1_000_000)
    warmup_learning_rate: float = Field(0.0, ge=0)
    """Where the warm-up starts."""
    loss: Literal["ce", "bce"] = "ce"
    """Against the ground truth: cross-entropy, or binary cross-entropy of each class (summed over the classes)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_gradient: float | None = Field(None, gt=0)
    """Largest gradient norm; null leaves gradients alone."""
    accumulation: int = Field(1, gt=0, le=1_000_000)
    """Parts of a step's batch that go through the student one after the other, where the whole does not fit in memory.
    The step equals that of the whole batch, except that batch norm sees a part. Methods that compare the images of a
    batch with each other refuse more than 1."""
    labelled_share: float = Field(0.5, gt=0, le=1)
    """Of the images of each batch, in a data set in which some have no label."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is validated and kept; null: none."""
    patience: int | None = Field(None, gt=0, le=1_000_000)
    """Training ends when validation has not improved for so many epochs; null: never early."""
    augment: AugmentOptions = AugmentOptions()
    select: Literal["best", "last"] = "best"
    """Which epoch's weights are kept: the best on validation, or the last."""

    @field_validator("optimizer")
    @classmethod
    def _known(cls, name: str) -> str:
        known = [str(optimizer) for optimizer in list_optimizers()]
        if name not in known:
            raise ValueError(f"expected an optimizer of timm ({', '.join(known)}), found '{name}'")
        return name

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "Recipe":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"expected fewer warmup_epochs than epochs, found {self.warmup_epochs} of {self.epochs}")
        return self


def part_size(recipe: Recipe, *, processes: int) -> int:
    """Images that go through the student at once, a part of a process's share; UserError if the parts are not even."""
    parts = processes * recipe.accumulation
    if recipe.batch_size % parts or recipe.batch_size // parts < 2:
        raise UserError(
            f"expected a multiple of compute.processes x accumulation ({processes} x {recipe.accumulation} = {parts}) "
            f"of at least {2 * parts}, found {recipe.batch_size}; change one of the three"
        )
    return recipe.batch_size // parts


class BinaryCrossEntropy(nn.Module):
    """Each class for itself, summed over the classes, mean over the batch; targets as in `nn.CrossEntropyLoss`.

    timm's own smooths indices only, not probabilities.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        classes = logits.shape[1]
        shares = (F.one_hot(target, classes) if target.ndim == 1 else target).to(logits.dtype)
        shares = (1 - self.label_smoothing) * shares + self.label_smoothing / classes
        return F.binary_cross_entropy_with_logits(logits, shares, reduction="none").sum(dim=1).mean()


def make_criterion(recipe: Recipe) -> nn.Module:
    """The loss against the ground truth: class indices `[B]` or probabilities `[B, classes]`."""
    kind = BinaryCrossEntropy if recipe.loss == "bce" else nn.CrossEntropyLoss
    return kind(label_smoothing=recipe.label_smoothing)


def make_optimizer(module: nn.Module, recipe: Recipe, *, scaled: bool = False) -> Optimizer:
    """The recipe's optimiser over a trainable module; norms and biases are not decayed.

    SGD, Adam and AdamW run as one kernel.

    Args:
        scaled: whether the loss is scaled for fp16. The kernel of SGD would then begin with a momentum that nobody has
            written where the first gradient is not finite, so all run without.
    """
    kind = get_optimizer_info(recipe.optimizer).opt_class
    has_one = isinstance(kind, type) and issubclass(kind, SGD | Adam | AdamW)
    fused: dict[str, Any] = {"fused": True} if has_one and not scaled else {}
    return create_optimizer_v2(
        module,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        **fused,
    )


def make_scheduler(optimizer: Optimizer, recipe: Recipe, *, steps_per_epoch: int) -> Scheduler:
    """The recipe's schedule by step: call `step_update(steps_done)` after each step."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=recipe.epochs,
        decay_epochs=recipe.decay_epochs,
        decay_rate=0.1,
        min_lr=recipe.min_learning_rate,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.warmup_learning_rate,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler
