"""DIST: distillation from a stronger teacher (NeurIPS 2022, arXiv 2205.10536)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from rsd.machine.parallel import gather
from rsd.methods._batches import pair, standardized
from rsd.methods.base import Distiller, MethodOptions, Step, WeightOptions


class DISTOptions(WeightOptions):
    """Options of `method.dist`."""

    beta: float = Field(1.0, ge=0)
    """Of the correlation over the classes."""
    gamma: float = Field(1.0, ge=0)
    """Of the correlation over the batch."""
    temperature: float = Field(1.0, gt=0)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """DIST (NeurIPS 2022, arXiv 2205.10536): `T^2 (beta (1 - rho_rows) + gamma (1 - rho_columns))`.

    `rho_rows` is Pearson's correlation of `p_s` and `p_t` over the classes, mean over the images (inter-class);
    `rho_columns` that over the batch, mean over the classes (intra-class). What is constant correlates with
    nothing.

    Args:
        student_logits, teacher_logits: `[B, classes]`; `p = softmax(logits / temperature)`.
    """
    student, teacher = pair(student_logits, teacher_logits, at_least=2)
    batch, classes = student.shape
    p = F.softmax(torch.cat([student, teacher]) / temperature, dim=1)
    rows = _mean_correlation(p)
    columns = _mean_correlation(p.view(2, batch, classes).transpose(1, 2).reshape(2 * classes, batch))
    return temperature**2 * (beta * (1 - rows) + gamma * (1 - columns))


def _mean_correlation(both: Tensor) -> Tensor:
    """Of the first half's rows with the other half's."""
    z_s, z_t = standardized(both).chunk(2)
    return (z_s * z_t).mean()


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
