"""Relational knowledge distillation (CVPR 2019, arXiv 1904.05068)."""

from pydantic import Field
from torch import Tensor

from rsd.machine.parallel import gather
from rsd.methods.base import Distiller, MethodOptions, Step, WeightOptions
from rsd.methods.losses import rkd_loss


class RKDOptions(WeightOptions):
    """Options of `method.rkd`."""

    distance_weight: float = Field(25.0, ge=0)
    angle_weight: float = Field(50.0, ge=0)


class RKDDistiller(Distiller, method="rkd"):
    """Cross-entropy + `weight` x RKD of the embeddings, whose widths may differ."""

    needs = frozenset({"embedding"})
    Options = RKDOptions
    options: RKDOptions

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        return True

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss = rkd_loss(
            gather(step.student.embedding),
            gather(step.teacher.embedding),
            distance_weight=self.options.distance_weight,
            angle_weight=self.options.angle_weight,
        )
        return self.options.weight * loss, {"rkd": loss}
