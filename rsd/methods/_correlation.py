"""The Pearson cross-correlation of two batches, and its two sums with their gradient in closed form."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rsd.methods._batches import pair

_EPS = 1e-5
"""Added to the standard deviation."""


class Correlation(NamedTuple):
    """What the cross-correlation `P = Zt' Zs / B` of two standardised batches says."""

    invariance: Tensor
    """`sum_i (P_ii - 1)^2`, a scalar."""
    redundancy: Tensor
    """`sum_{i != j} P_ij^2`, a scalar. That of a random pair is about `D^2 / B`."""
    diagonal: Tensor
    """`P_ii`, `[D]`: how well each dimension of the teacher is matched; 1 is perfect, 0 chance."""


def correlate(student: Tensor, teacher: Tensor) -> Correlation:
    """The Pearson cross-correlation of redundancy suppression (arXiv 2507.21844).

    `B^2 ||P||_F^2 = sum(Zs * Zt Zt' Zs)`, so a batch smaller than the width never needs the D x D matrix: the B x B
    Gram matrix of the teacher gives the same number, and `Zt Zt' Zs` is all that the gradient needs, too. Where the
    batch is larger, `Zt' Zs` is the cheaper one. There is no second derivative.

    Args:
        student: `[B, D]`, B >= 2, already mapped to the teacher's width.
        teacher: `[B, D]`.

    Raises:
        ValueError: the shapes differ, are not two-dimensional, or B is 1.
    """
    return Correlation(*_Correlate.apply(*pair(student, teacher, at_least=2)))


class _Correlate(torch.autograd.Function):
    """Invariance, redundancy and diagonal of two batches `[B, D]`.

    With `c_j = P_jj`, `q_j = sum_i P_ij^2`, `H = Zt Zt' Zs` and the incoming gradients a, b and d the gradient at Zs is
    `G = (2 a (c - 1) - 2 b c + d) / B * Zt + 2 b / B^2 * H`. Its column means are zero, and those of `G * Zs` are
    `m = (2 a (c - 1) - 2 b c + d) / B * c + 2 b / B * q`; so at the student it is `G / (sigma + eps) - Zs m / sigma`.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z_s, factor_s, deviation_s = _standardize(student)
        z_t, factor_t, deviation_t = _standardize(teacher)
        batch, width = z_s.shape
        diagonal = (z_t * z_s).mean(dim=0)
        with torch.autocast(z_s.device.type, enabled=False):
            if batch < width:
                product = z_t @ z_t.T @ z_s  # H
                squares = (z_s * product).sum(dim=0)
            else:
                product = z_t.T @ z_s  # B P
                squares = product.square().sum(dim=0)
        squares /= batch**2
        ctx.save_for_backward(z_s, z_t, factor_s, factor_t, deviation_s, deviation_t, diagonal, squares, product)
        return (diagonal - 1).square().sum(), squares.sum() - diagonal.square().sum(), diagonal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_invariance: Tensor, of_redundancy: Tensor, of_diagonal: Tensor) -> tuple[Any, Any]:
        z_s, z_t, factor_s, factor_t, deviation_s, deviation_t, diagonal, squares, product = ctx.saved_tensors
        batch, width = z_s.shape
        own = (2 * (of_invariance * (diagonal - 1) - of_redundancy * diagonal) + of_diagonal) / batch
        others = 2 * of_redundancy / batch
        for_student = for_teacher = None
        with torch.autocast(z_s.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                pulled = product if batch < width else z_t @ product
                mean = own * diagonal + others * squares
                for_student = z_t * (own * factor_s)
                for_student.addcmul_(pulled, others / batch * factor_s).addcmul_(z_s, -mean / deviation_s)
            if ctx.needs_input_grad[1]:
                pulled = z_s @ (z_s.T @ z_t)
                mean = own * diagonal + others * (z_t * pulled).sum(dim=0) / batch**2
                for_teacher = z_s * (own * factor_t)
                for_teacher.addcmul_(pulled, others / batch * factor_t).addcmul_(z_t, -mean / deviation_t)
        return for_student, for_teacher


def _standardize(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero mean and unit biased standard deviation per column of `[B, D]`; the factors `[D]`, and the deviations.

    A column that is constant but for rounding becomes zeros, with a factor of 0 and a deviation of 1, so that it has no
    gradient: the definition's is unbounded there.
    """
    mean = z.mean(dim=0)
    centred = z - mean
    variance = centred.square().mean(dim=0)
    varies = ~(variance <= (8 * torch.finfo(z.dtype).eps * mean).square())  # NaN varies, so that it is noticed
    deviation = torch.where(varies, variance, 1.0).sqrt()
    factor = varies / (deviation + _EPS)
    return centred.mul_(factor), factor, deviation
