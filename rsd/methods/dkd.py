"""Decoupled knowledge distillation (CVPR 2022, arXiv 2203.08679)."""

from pydantic import Field
from torch import Tensor

from rsd.methods.base import Distiller, Step, WeightOptions
from rsd.methods.losses import dkd_loss


class DKDOptions(WeightOptions):
    """Options of `method.dkd`."""

    alpha: float = Field(1.0, ge=0)
    """Of the target class against all others."""
    beta: float = Field(2.0, ge=0)
    """Of the others among themselves."""
    temperature: float = Field(1.0, gt=0)


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
