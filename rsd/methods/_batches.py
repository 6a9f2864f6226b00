"""What several losses share: two batches in one precision, centred columns, the divergence of two softmaxes.

Half-precision inputs are computed in float32, also under autocast; float64 stays float64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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


def centre(z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`z` with zero mean along `dim`, and its biased standard deviation there, kept as a dimension of 1.

    What is constant but for rounding becomes zeros without a gradient, with a deviation of 1: the
    definition's gradient is unbounded there, noise that overflows in fp16.
    """
    mean = z.mean(dim=dim, keepdim=True)
    centred = z - mean
    variance = centred.square().mean(dim=dim, keepdim=True)
    varies = ~(variance <= (8 * torch.finfo(z.dtype).eps * mean).square())  # NaN varies, so that it is noticed
    return torch.where(varies, centred, 0.0), torch.where(varies, variance, 1.0).sqrt()  # sqrt has no gradient at 0


def divergence(of: Tensor, against: Tensor) -> Tensor:
    """`KL(softmax(of) || softmax(against))` for each row, `[B]`."""
    log_p, log_q = F.log_softmax(of, dim=1), F.log_softmax(against, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
