"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)."""

from pydantic import Field
from torch import Tensor

from rsd.methods._batches import divergence, pair
from rsd.methods.base import Distiller, Step, WeightOptions


class KDOptions(WeightOptions):
    """Options of `method.kd`."""

    temperature: float = Field(1.0, gt=0)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): `T^2 KL(p_t || p_s)`, mean over the batch.

    Args:
        student_logits, teacher_logits: `[B, classes]`; `p = softmax(logits / temperature)`.
    """
    student, teacher = pair(student_logits, teacher_logits)
    return temperature**2 * divergence(teacher / temperature, student / temperature).mean()


class KDDistiller(Distiller, method="kd"):
    """Cross-entropy + `weight` x the divergence of the softened logits."""

    needs = frozenset({"logits"})
    Options = KDOptions
    options: KDOptions

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss = kd_loss(step.student.logits, step.teacher.logits, temperature=self.options.temperature)
        return self.options.weight * loss, {"kd": loss}
