"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)."""

from pydantic import Field
from torch import Tensor

from rsd.methods.base import Distiller, Step, WeightOptions
from rsd.methods.losses import kd_loss


class KDOptions(WeightOptions):
    """Options of `method.kd`."""

    temperature: float = Field(1.0, gt=0)


class KDDistiller(Distiller, method="kd"):
    """Cross-entropy + `weight` x the divergence of the softened logits."""

    needs = frozenset({"logits"})
    Options = KDOptions
    options: KDOptions

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss = kd_loss(step.student.logits, step.teacher.logits, temperature=self.options.temperature)
        return self.options.weight * loss, {"kd": loss}
