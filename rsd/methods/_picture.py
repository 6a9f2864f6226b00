"""The picture for "is my loss working?": the cross-correlation of student and teacher, before and after training."""

import numpy as np
import torch
from torch import Tensor

from rsd.models.correlation import cross_correlation, off_diagonal_rms
from rsd.run.records import CorrelationChange, CorrelationPicture

MAX_CELLS = 64  # a larger matrix is drawn as this many rows and columns of means


def block_means(matrix: Tensor) -> Tensor:
    """`matrix` `[D, D]` as `MAX_CELLS` x `MAX_CELLS` means of near-equal blocks; unchanged where D is no larger."""
    width = len(matrix)
    if width <= MAX_CELLS:
        return matrix
    cell = torch.arange(width, device=matrix.device) * MAX_CELLS // width
    share = torch.nn.functional.one_hot(cell, MAX_CELLS).to(matrix.dtype)
    share = share / share.sum(0)
    return share.T @ matrix @ share


def picture(student: Tensor, teacher: Tensor) -> CorrelationPicture:
    """The cross-correlation of two embeddings `[N, D]` in numbers."""
    correlation = cross_correlation(student, teacher)
    return CorrelationPicture(
        diagonal_mean=float(correlation.diagonal().mean()),
        off_diagonal_rms=off_diagonal_rms(correlation),
        matrix=np.round(block_means(correlation).cpu().numpy(), 4).tolist(),
    )


def describe(before: Tensor, after: Tensor, teacher: Tensor, *, caption: str) -> CorrelationChange:
    """The cross-correlation before and after training; all are `[N, D]`, of the same N images."""
    images, width = teacher.shape
    return CorrelationChange(
        caption=caption,
        images=images,
        width=width,
        cells=min(width, MAX_CELLS),
        chance=images**-0.5,
        teacher_rms=off_diagonal_rms(cross_correlation(teacher, teacher)),
        before=picture(before, teacher),
        after=picture(after, teacher),
    )
