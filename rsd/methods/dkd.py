"""Decoupled knowledge distillation (CVPR 2022, arXiv 2203.08679)."""

import torch
from pydantic import Field
from torch import Tensor

from rsd.methods._batches import divergence, pair
from rsd.methods.base import Distiller, Step, WeightOptions


class DKDOptions(WeightOptions):
    """Options of `method.dkd`."""

    alpha: float = Field(1.0, ge=0)
    """Of the target class against all others."""
    beta: float = Field(2.0, ge=0)
    """Of the others among themselves."""
    temperature: float = Field(1.0, gt=0)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 1.0,
) -> Tensor:
    """Decoupled knowledge distillation (CVPR 2022, arXiv 2203.08679, eq. 7): `T^2 (alpha TCKD + beta NCKD)`.

    TCKD is the divergence of the two-way distributions (target, not target); NCKD that of the distributions
    over the classes that are not the target. With `beta = 1 - p_t[target]` it would be KD.

    Args:
        student_logits, teacher_logits: `[B, classes]`.
        target: class indices `[B]`.
    """
    student, teacher = pair(student_logits, teacher_logits)
    target = target[:, None]
    others = torch.arange(student.shape[1] - 1, device=target.device).expand(len(target), -1)
    others = others + (others >= target)  # all columns but the target's

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        rest = logits.gather(1, others)
        return torch.cat([logits.gather(1, target), rest.logsumexp(dim=1, keepdim=True)], dim=1), rest

    target_s, others_s = split(student / temperature)
    target_t, others_t = split(teacher / temperature)
    loss = alpha * divergence(target_t, target_s) + beta * divergence(others_t, others_s)
    return temperature**2 * loss.mean()


class DKDDistiller(Distiller, method="dkd"):
    """Cross-entropy + `weight` x DKD of the logits."""

    needs = frozenset({"logits"})
    Options = DKDOptions
    options: DKDOptions

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss = dkd_loss(
            step.student.logits,
            step.teacher.logits,
            step.labels,
            alpha=self.options.alpha,
            beta=self.options.beta,
            temperature=self.options.temperature,
        )
        return self.options.weight * loss, {"dkd": loss}
