"""Relational knowledge distillation (CVPR 2019, arXiv 1904.05068)."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from rsd.machine.parallel import gather
from rsd.methods._batches import pair
from rsd.methods.base import Distiller, MethodOptions, Step, WeightOptions


class RKDOptions(WeightOptions):
    """Options of `method.rkd`."""

    distance_weight: float = Field(25.0, ge=0)
    angle_weight: float = Field(50.0, ge=0)


def rkd_loss(student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Relational knowledge distillation (CVPR 2019, arXiv 1904.05068, eq. 4 to 9).

    `distance_weight * huber(d_s, d_t) + angle_weight * huber(a_s, a_t)`: `d_ij = |z_i - z_j|` over its mean over
    `i != j`; `a_ijk` the cosine of the angle at `z_j` between `z_i` and `z_k`; huber the smooth L1 with
    threshold 1, mean over all `B^2` pairs and `B^3` triplets. Points that coincide have distance and cosine 0.

    From the Gram matrix: memory grows with `B^3`, never with `B^2 D`.

    Args:
        student: `[B, D_s]`, B >= 2; the widths may differ.
        teacher: `[B, D_t]`.
    """
    student, teacher = pair(student, teacher, width=False, at_least=2)
    distance_s, angle_s = _relations(student)
    distance_t, angle_t = _relations(teacher)
    return distance_weight * F.smooth_l1_loss(distance_s, distance_t) + angle_weight * F.smooth_l1_loss(
        angle_s, angle_t
    )


def _relations(z: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean `[B, B]`, and cosines `[B, B, B]` of the angles; the first index is the vertex."""
    z = z - z.mean(dim=0)  # nothing cancels that need not
    with torch.autocast(z.device.type, enabled=False):
        gram = z @ z.T
    square = gram.diagonal()
    sums = square[:, None] + square[None, :]
    squares = sums - 2 * gram
    pairs = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    apart = pairs & ~(squares <= 8 * torch.finfo(z.dtype).eps * sums)  # further than rounding; NaN stays NaN
    distance = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    mean = distance.sum() / pairs.sum()
    dot = gram[None] - gram[:, :, None] - gram[:, None, :] + square[:, None, None]  # <z_i - z_j, z_k - z_j>
    inverse = torch.where(apart, 1 / torch.where(apart, distance, 1.0), 0.0)
    return distance / torch.where(mean == 0, 1.0, mean), dot * inverse[:, :, None] * inverse[:, None, :]


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
