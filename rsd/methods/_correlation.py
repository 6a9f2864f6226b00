"""The Pearson cross-correlation of two batches, and its two sums with their gradient in closed form."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rsd.methods._batches import pair

_EPS = 1e-5
"""Added to the standard deviation."""
_LEAST = 1e-15
"""A standard deviation that counts as none."""


class Correlation(NamedTuple):
    """What the cross-correlation `P = Zt' Zs / B` of two standardised batches says."""

    loss: Tensor
    """Both sums, weighted: a scalar."""
    invariance: Tensor
    """`sum_i (P_ii - 1)^2`, a scalar."""
    redundancy: Tensor
    """`sum_{i != j} P_ij^2`, a scalar. That of a random pair is about `D^2 / B`."""
    diagonal: Tensor
    """`P_ii`, `[D]`: how well each dimension of the teacher is matched; 1 is perfect, 0 chance."""


def correlate(student: Tensor, teacher: Tensor, *, weights: tuple[float, float] = (1.0, 1.0)) -> Correlation:
    """The Pearson cross-correlation of redundancy suppression (arXiv 2507.21844).

    `B^2 ||P||_F^2 = sum(Zs * Zt Zt' Zs)`, so a batch smaller than the width never needs the D x D matrix: the B x B
    Gram matrix of the teacher gives the same number, and `Zt Zt' Zs` is all that the gradient needs, too. Where the
    batch is larger, `Zt' Zs` is the cheaper one. Only the loss has a gradient, and no second one.

    Args:
        student: `[B, D]`, B >= 2, already mapped to the teacher's width.
        teacher: `[B, D]`.
        weights: of invariance and redundancy in the loss.

    Raises:
        ValueError: the shapes differ, are not two-dimensional, or B is 1.
    """
    return Correlation(*_Correlate.apply(*pair(student, teacher, at_least=2), *weights))


class _Correlate(torch.autograd.Function):
    """The loss `a invariance + b redundancy` of two batches `[B, D]`, both sums, and the diagonal.

    With `c_j = P_jj`, `q_j = B^2 sum_i P_ij^2` and `H = Zt Zt' Zs` the gradient at Zs is `G = u Zt + v H` with
    `u = 2 (a (c - 1) - b c) / B` and `v = 2 b / B^2`. Its column means are zero, and those of `G * Zs` are
    `m = u c + v q / B`; so at the student it is `G / (sigma + eps) - Zs m / sigma`.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, of_invariance: float, of_redundancy: float
    ) -> tuple[Tensor, ...]:
        (z_s, *scales_s), (z_t, *scales_t) = _standardized(student), _standardized(teacher)
        batch, width = z_s.shape
        with torch.autocast(z_s.device.type, enabled=False):
            if batch < width:
                product = z_t @ z_t.T @ z_s  # H
                squares = (z_s * product).sum(dim=0)
                diagonal = (z_t * z_s).mean(dim=0)
            else:
                product = z_t.T @ z_s  # B P
                squares = (product * product).sum(dim=0)
                diagonal = product.diagonal() / batch
        away = diagonal - 1
        invariance = (away * away).sum()
        redundancy = squares.sum() / batch**2 - (diagonal * diagonal).sum()
        ctx.save_for_backward(z_s, z_t, *scales_s, *scales_t, diagonal, away, squares, product)
        ctx.weights = of_invariance, of_redundancy
        ctx.mark_non_differentiable(invariance, redundancy, diagonal)
        return of_invariance * invariance + of_redundancy * redundancy, invariance, redundancy, diagonal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, *_: Any) -> tuple[Any, ...]:
        z_s, z_t, *scales, diagonal, away, squares, product = ctx.saved_tensors
        batch, width = z_s.shape
        a, b = (2 * weight / batch for weight in ctx.weights)
        u, v = (a * away).sub_(diagonal, alpha=b).mul_(of_loss), of_loss * (b / batch)

        def gradient(own: Tensor, other: Tensor, h: Tensor, q: Tensor, inverse: Tensor, factor: Tensor) -> Tensor:
            mean = (u * diagonal).addcmul_(q, v, value=1 / batch)
            result = h * (v * factor) if h is product else h.mul_(v * factor)
            result.addcmul_(other, u * factor).addcmul_(own, mean * inverse, value=-1)
            return result.sub_(
                result.mean(dim=0)
            )  # zero but for rounding, which would add up in the gradient of a bias

        for_student = for_teacher = None
        with torch.autocast(z_s.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                h = product if batch < width else z_t @ product
                for_student = gradient(z_s, z_t, h, squares, *scales[:2])
            if ctx.needs_input_grad[1]:
                h = z_s @ (z_s.T @ z_t)
                for_teacher = gradient(z_t, z_s, h, (z_t * h).sum(dim=0), *scales[2:])
        return for_student, for_teacher, None, None


def _standardized(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero mean and unit biased standard deviation per column, `[B, D]`; `1 / sigma` and `1 / (sigma + eps)`, `[D]`.

    A column that is constant but for rounding becomes zeros, with a factor of 0, so that it has no gradient: the
    definition's is unbounded there. What is not finite stays so.
    """
    # One kernel for mean, deviation and both passes over the batch.
    result, mean, inverse = torch.native_batch_norm(z, None, None, None, None, True, 0.0, _LEAST**2)
    rounding = mean.abs_().mul_(8 * torch.finfo(z.dtype).eps).add_(2 * _LEAST)
    share = (rounding.mul_(inverse) < 1) / (inverse * _EPS).add_(1)
    return result.mul_(share), inverse, inverse * share
