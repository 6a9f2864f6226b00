"""What several losses share: two batches in one precision, standardised rows, the divergence of two softmaxes.

Half-precision inputs are computed in float32, also under autocast; float64 stays float64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = 1e-15
"""A standard deviation that counts as none."""


def pair(student: Tensor, teacher: Tensor, *, width: bool = True, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Both batches `[B, D]` in one precision, float32 at least.

    Args:
        width: whether the two must have the same D, not only the same B.
        at_least: the smallest B.

    Raises:
        ValueError: the shapes do not fit each other, or the batch is too small.
    """
    if student.ndim != 2 or teacher.ndim != 2 or student.shape[: 1 + width] != teacher.shape[: 1 + width]:
        raise ValueError(
            f"expected student and teacher of one {'shape [B, D]' if width else 'batch [B, *]'}, found "
            f"{list(student.shape)} and {list(teacher.shape)}"
            f"{'; map the student to the width of the teacher first (rsd.AAD)' if width else ''}"
        )
    if len(student) < at_least:
        raise ValueError(f"expected a batch of at least {at_least}, found {len(student)}; raise the batch size")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.to(dtype)


def varies(mean: Tensor, inverse: Tensor) -> Tensor:
    """Whether what has this mean, and this inverse of its standard deviation, varies by more than rounding.

    Where it does not, standardising makes noise of it, and the gradient has no bound. `inverse` comes from a norm with
    `LEAST**2` in the place of its eps.
    """
    return (mean.abs() * (8 * torch.finfo(mean.dtype).eps) + 2 * LEAST) * inverse < 1


def standardized(z: Tensor) -> Tensor:
    """Each row of `[N, D]` with zero mean and unit biased deviation.

    What is constant but for rounding becomes zeros without a gradient. What is not finite stays so.
    """
    result, mean, inverse = torch.native_layer_norm(z, z.shape[1:], None, None, LEAST**2)
    return result * varies(mean, inverse)


def divergence(of: Tensor, against: Tensor) -> Tensor:
    """`KL(softmax(of) || softmax(against))` for each row, `[B]`."""
    log_p, log_q = F.log_softmax(of, dim=1), F.log_softmax(against, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
