"""The Pearson cross-correlation of two batches, and its two sums with their gradient in closed form."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rsd.methods._batches import LEAST, pair, varies

_EPS = 1e-5
"""Added to the standard deviation."""


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
    student, teacher = pair(student, teacher, at_least=2)
    grad = torch.is_grad_enabled()
    needs = grad and student.requires_grad, grad and teacher.requires_grad
    return Correlation(*_Correlate.apply(student, teacher, weights, needs))


class _Correlate(torch.autograd.Function):
    """The loss `a invariance + b redundancy` of two batches `[B, D]`, both sums, and the diagonal.

    With `c_j = P_jj`, `q_j = B^2 sum_i P_ij^2` and `H = Zt Zt' Zs` the gradient at Zs is `G = u Zt + v H` with
    `u = 2 (a (c - 1) - b c) / B` and `v = 2 b / B^2`. Its column means are zero, and those of `G * Zs` are
    `m = u c + v q / B`; so at the student it is `G / (sigma + eps) - Zs m / sigma`.

    The gradient is made beside the loss, of which it is all that is kept. A small batch takes the time that its
    operations take to start, and an operation that the step has just used starts sooner: so these are few and plain.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, weights: tuple[float, float], needs: tuple[bool, bool]
    ) -> tuple[Tensor, ...]:
        device = student.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            correlation, gradients = _sums_and_gradients(student, teacher, weights, needs)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*correlation[1:])
        return correlation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor, *_: Any) -> tuple[Any, ...]:
        return *(None if gradient is None else gradient * of_loss for gradient in ctx.saved_tensors), None, None


def _sums_and_gradients(
    student: Tensor, teacher: Tensor, weights: tuple[float, float], needs: tuple[bool, bool]
) -> tuple[tuple[Tensor, ...], list[Tensor | None]]:
    """What `_Correlate` says; a gradient that nobody needs is None."""
    batch, width = student.shape
    z, inverse, factor = _standardized(torch.cat([student, teacher], dim=1))
    z_s, z_t = z[:, :width], z[:, width:]
    gram = batch < width
    if gram:
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
    a, b = weights
    loss = a * invariance + b * redundancy
    u, v = (away * a - diagonal * b) * (2 / batch), 2 * b / batch**2

    def gradient(own: Tensor, other: Tensor, h: Tensor, q: Tensor, side: slice) -> Tensor:
        """Of the loss at `own`, written over `h`."""
        mean = u * diagonal + q * (v / batch)
        h *= factor[side] * v
        h.addcmul_(other, factor[side] * u).addcmul_(own, inverse[side] * mean, value=-1)
        h -= h.mean(dim=0)  # zero but for rounding, which would add up in the gradient of a bias
        return h

    for_student = for_teacher = None
    if needs[0]:
        for_student = gradient(z_s, z_t, product if gram else z_t @ product, squares, slice(width))
    if needs[1]:
        h = z_s @ (z_s.T @ z_t)
        for_teacher = gradient(z_t, z_s, h, (z_t * h).sum(dim=0), slice(width, None))
    return (loss, invariance, redundancy, diagonal), [for_student, for_teacher]


def _standardized(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero mean and unit biased standard deviation per column, `[B, D]`; `1 / sigma` and `1 / (sigma + eps)`, `[D]`.

    A column that is constant but for rounding becomes zeros, with a factor of 0, so that it has no gradient: the
    definition's is unbounded there. What is not finite stays so.
    """
    # One kernel for mean, deviation and both passes over the batch.
    result, mean, inverse = torch.native_batch_norm(z, None, None, None, None, True, 0.0, LEAST**2)
    share = varies(mean, inverse) / (inverse * _EPS + 1)
    result *= share
    return result, inverse, inverse * share
