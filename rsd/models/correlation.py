"""The correlation between the dimensions of two embeddings."""

import torch
from torch import Tensor


def cross_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson's r of every dimension of the teacher with every one of the student.

    Args:
        student: `[N, D]`, after the AAD.
        teacher: `[N, D]`.

    Returns:
        float64 `[D, D]`: a row per dimension of the teacher, a column per dimension of the student; 0 where one of the
        two is constant.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"expected embeddings of one shape [N, D], found {list(student.shape)} and {list(teacher.shape)}"
        )
    return _unit_columns(teacher).T @ _unit_columns(student)


def _unit_columns(z: Tensor) -> Tensor:
    centred = z.double() - z[:1].double()  # a constant column becomes exactly zero
    centred = centred - centred.mean(0)
    norm = centred.norm(dim=0)
    return centred / torch.where(norm > 0, norm, 1.0)


def off_diagonal_rms(correlation: Tensor) -> float:
    """Root mean square of a square matrix without its diagonal; 0 for a single dimension."""
    width = len(correlation)
    squares = correlation.square().sum() - correlation.diagonal().square().sum()
    return float((squares.clamp_min(0) / max(width * (width - 1), 1)).sqrt())
