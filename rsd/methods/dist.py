"""DIST: distillation from a stronger teacher (NeurIPS 2022, arXiv 2205.10536)."""

from pydantic import Field
from torch import Tensor

from rsd.machine.parallel import gather
from rsd.methods.base import Distiller, MethodOptions, Step, WeightOptions
from rsd.methods.losses import dist_loss


class DISTOptions(WeightOptions):
    """Options of `method.dist`."""

    beta: float = Field(1.0, ge=0)
    """Of the correlation over the classes."""
    gamma: float = Field(1.0, ge=0)
    """Of the correlation over the batch."""
    temperature: float = Field(1.0, gt=0)


class DISTDistiller(Distiller, method="dist"):
    """Cross-entropy + `weight` x DIST of the logits."""

    needs = frozenset({"logits"})
    Options = DISTOptions
    options: DISTOptions

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        return True

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        loss = dist_loss(
            gather(step.student.logits),
            gather(step.teacher.logits),
            beta=self.options.beta,
            gamma=self.options.gamma,
            temperature=self.options.temperature,
        )
        return self.options.weight * loss, {"dist": loss}
