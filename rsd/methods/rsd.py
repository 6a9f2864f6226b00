"""Redundancy suppression distillation (ICCV 2025, arXiv 2507.21844)."""

import copy
import functools
import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, JsonValue
from timm.utils.model import unwrap_model
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.machine.parallel import gather, processes
from rsd.methods._correlation import correlate
from rsd.methods._picture import describe
from rsd.methods.base import Distiller, MethodOptions, Setting, Step
from rsd.models.outputs import Outputs, embedding_width
from rsd.run.records import CorrelationChange

SPACES = ("embedding", "logits")
STRONGEST_PULL = 30.0
"""`RSDDistiller.pull` above which a user is warned; of the published runs the strongest (a ResNet50 teaches, 2048
wide, batch 64) has 24."""
PUBLISHED_PULL = 12.0
"""Of most published runs: 768 wide, batch 128."""


class RSDOptions(MethodOptions):
    """Options of `method.rsd`; the defaults are the paper's, but for `correlation`."""

    weight: float = Field(0.1, ge=0)
    """Weight of the whole RSD loss beside the cross-entropy (lambda in the paper)."""
    kappa: float = Field(0.01, ge=0)
    """Weight of the redundancy term; 0 keeps only the invariance."""
    gamma: float = Field(2.0, gt=0)
    """Width of the AAD's hidden layer as a multiple of the student's embedding."""
    max_hidden: int | None = Field(None, gt=0, le=1_000_000)
    """A cap on that width, for students with a wide embedding such as MobileNetV2's; null for none."""
    space: Literal["embedding", "logits", "both"] = "embedding"
    """What of student and teacher is correlated; `both` adds the two losses."""
    aad: Literal["embedding", "logits", "both", "none"] = "embedding"
    """Which of these the student's side passes through an AAD; without one the widths must be equal."""
    reference_width: int | None = Field(None, gt=1, le=1_000_000)
    """Both sums grow with the width D of what is correlated, the invariance as D, the redundancy as D (D - 1).
    With a reference width W they are scaled by W / D and W (W - 1) / (D (D - 1)), as if the teacher were W wide; null
    leaves the sums alone. For teachers narrower than 256 that made the redundancy too strong (docs/sensitivity.md)."""
    correlation: Literal["global", "per_process"] = "global"
    """Under several processes: over the whole batch, as one process would, or over each process's share (as the
    published runs do)."""


class AAD(nn.Sequential):
    """Architecture-agnostic decoupler: maps `[B, D_s]` to `[B, D_t]` while training, then is thrown away.

    `Linear(D_s, gamma * D_s) -> BatchNorm -> GELU -> Linear(gamma * D_s, D_t)`, both without bias, weights
    truncated-normal with standard deviation 0.02 (arXiv 2507.21844). It soaks up what is peculiar to the
    two architectures, so that the student's own embedding need not. As it never serves, the batch norm keeps no running
    statistics: in eval mode, too, it is over the batch.

    Args:
        max_hidden: a cap on the hidden width `gamma * D_s`, for students with a wide embedding; None for none.
    """

    def __init__(
        self, student_width: int, teacher_width: int, *, gamma: float = 2.0, max_hidden: int | None = None
    ) -> None:
        hidden = max(1, round(gamma * student_width))
        hidden = hidden if max_hidden is None else min(hidden, max_hidden)
        super().__init__(
            nn.Linear(student_width, hidden, bias=False),
            nn.BatchNorm1d(hidden, track_running_stats=False),
            nn.GELU(),
            nn.Linear(hidden, teacher_width, bias=False),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)


@torch.no_grad()
def decoupled(aad: nn.Module, embedding: Tensor) -> Tensor:
    """An embedding `[N, D_s]` after the AAD, on the embedding's device. Batch norm is over these N images."""
    return copy.deepcopy(aad).to(embedding.device)(embedding)


def rsd_terms(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of redundancy suppression, before `kappa`: invariance and redundancy, see `rsd_loss`.

    Each has its own gradient, which takes the correlation twice; a loss of both is cheaper by `rsd_loss`.
    """
    return correlate(student, teacher, weights=(1, 0)).loss, correlate(student, teacher, weights=(0, 1)).loss


def rsd_loss(student: Tensor, teacher: Tensor, *, kappa: float = 0.01) -> Tensor:
    """Redundancy suppression distillation (arXiv 2507.21844): `invariance + kappa * redundancy`.

    `invariance` is `sum_i (P_ii - 1)^2`, `redundancy` `sum_{i != j} P_ij^2`, with `P = Zt' Zs / B` of the standardised
    batches: a sum over the `D x D` correlations, not a mean.

    Args:
        student: `[B, D]`, B >= 2, already mapped to the teacher's width.
        teacher: `[B, D]`.
        kappa: weight of the redundancy.

    Raises:
        ValueError: the shapes differ, are not two-dimensional, or B is 1.
    """
    return correlate(student, teacher, weights=(1, kappa)).loss


class Correlated(nn.Module):
    """The scaffold: what is correlated, gathered from all processes, the student's side through its AAD."""

    def __init__(self, aads: dict[str, AAD | None], *, over_processes: bool) -> None:
        super().__init__()
        self.spaces = list(aads)
        self.aads = nn.ModuleDict({space: aad for space, aad in aads.items() if aad is not None})
        self.over_processes = over_processes

    def forward(self, student: Outputs, teacher: Outputs) -> dict[str, tuple[Tensor, Tensor]]:
        pairs = {space: (getattr(student, space), getattr(teacher, space)) for space in self.spaces}
        if self.over_processes and processes() > 1:  # before the AAD: its batch norm then sees the whole batch
            pairs = {space: (gather(own), gather(other)) for space, (own, other) in pairs.items()}
        return {
            space: (self.aads[space](own) if space in self.aads else own, other)
            for space, (own, other) in pairs.items()
        }


class RSDDistiller(Distiller, method="rsd"):
    """Cross-entropy + `weight` x RSD between the AAD's output and the teacher's embedding."""

    needs = frozenset({"embedding", "logits"})
    Options = RSDOptions
    options: RSDOptions
    paper: ClassVar[dict[str, JsonValue]] = {"correlation": "per_process"}

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        return True

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module:
        assert setting.teacher_width is not None  # the constructor has checked what `needs` asks for
        classes = int(student.num_classes)  # type: ignore[arg-type]
        widths = {"embedding": (embedding_width(student), setting.teacher_width), "logits": (classes, classes)}
        self.widths: dict[str, int] = {}
        aads: dict[str, AAD | None] = {}
        for space in SPACES if self.options.space == "both" else (self.options.space,):
            own, self.widths[space] = widths[space]
            other = self.widths[space]
            if self.options.aad in (space, "both"):
                aads[space] = AAD(own, other, gamma=self.options.gamma, max_hidden=self.options.max_hidden)
            elif own == other:
                aads[space] = None
            else:
                raise UserError(
                    f"expected a student as wide as its teacher where no AAD maps between them, found {own} and "
                    f"{other}; set method.rsd.aad to {space} or both, or choose a student with an embedding of {other}"
                )
        return Correlated(aads, over_processes=self.options.correlation == "global")

    def student_side(self, student: Outputs) -> Tensor:
        """What is correlated with the teacher."""
        scaffold = unwrap_model(self.trainable_module).projection
        space = scaffold.spaces[0]
        own = getattr(student, space)
        return decoupled(scaffold.aads[space], own) if space in scaffold.aads else own

    def inside(self, before: Tensor, after: Tensor, teacher: Outputs) -> CorrelationChange:
        space = next(iter(self.widths))
        aad = ", after its AAD," if self.options.aad in (space, "both") else ""
        caption = (
            f"P correlates each dimension of the teacher's {space} with each of the student's{aad} over {len(after)} "
            "validation images. RSD draws the diagonal to 1 and the rest to 0."
        )
        return describe(before, after, getattr(teacher, space), caption=caption)

    def scales(self, width: int) -> tuple[float, float]:
        """Factors of the two sums over a correlation of this width, see `reference_width`."""
        if not (reference := self.options.reference_width):
            return 1.0, 1.0
        return reference / width, reference * (reference - 1) / max(width * (width - 1), 1)

    def pull(self, width: int, batch: int) -> float:
        """About how many times the cross-entropy's gradient at the student's embedding RSD's is, at the start.

        With uncorrelated standardised batches the gradient of the invariance, `2 Zt / B`, has the norm
        `2 sqrt(D / B)`, that of the redundancy `D / B` times kappa as much; the cross-entropy's, through a linear head,
        about `1 / (2 sqrt(B))`. Measured on random embeddings (D 64 to 4096, B 8 to 128, student 32 to 1280 wide):
        right within a factor of 2, whatever the student's width.
        """
        scale, square = self.scales(width)
        return 4 * self.options.weight * width**0.5 * (scale + self.options.kappa * square * width / batch)

    def advice(self, *, batch_size: int, classes: int) -> list[str]:
        batch = batch_size // (1 if self.options.correlation == "global" else processes())
        return [
            f"method.rsd.weight {self.options.weight:g} may be too strong: with the {space} of the teacher {width:,} "
            f"wide and {batch} images correlated, RSD adds about {self._start(width, batch):.4g} to a cross-entropy of "
            f"{math.log(classes):.2g} at the start and pulls about {pull:.0f} times as hard (published runs: 8 to 24); "
            f"set it to about {self.options.weight * PUBLISHED_PULL / pull:.2g}, or method.rsd.reference_width to 768, "
            "or raise recipe.batch_size"
            for space, width in self.widths.items()
            if (pull := self.pull(width, batch)) > STRONGEST_PULL
        ]

    def _start(self, width: int, batch: int) -> float:
        """What RSD adds to the loss of uncorrelated batches: D (D - 1) correlations with a mean square of 1 / B."""
        scale, square = self.scales(width)
        return self.options.weight * (scale * width + self.options.kappa * square * width * (width - 1) / batch)

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        losses, log = list[Tensor](), dict[str, Tensor]()
        for number, (space, (student, teacher)) in enumerate(step.adapted.items()):
            batch, width = student.shape
            scale, square = (self.options.weight * factor for factor in self.scales(width))
            loss, invariance, redundancy, diagonal = correlate(
                student, teacher, weights=(scale, self.options.kappa * square)
            )
            losses.append(loss)
            prefix = f"{space}_" if number else ""
            log |= {f"{prefix}invariance": invariance, f"{prefix}redundancy": redundancy}
            if step.logged:
                pairs = max(width * (width - 1), 1)
                log |= {
                    f"{prefix}diagonal_mean": diagonal.mean(),
                    f"{prefix}off_diagonal_rms": (redundancy.clamp_min(0) / pairs).sqrt(),
                    # Uncorrelated dimensions still show 1/sqrt(B) by chance: the floor of a healthy run.
                    f"{prefix}off_diagonal_chance": student.new_full((), batch**-0.5),
                }
        return functools.reduce(torch.add, losses), log
