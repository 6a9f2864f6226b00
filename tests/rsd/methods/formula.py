"""Batches to compute losses of, and what holds a loss to its paper's formula, written out entry by entry in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

TARGET = torch.tensor([3, 0, 6, 2, 2, 5])
ORDER = torch.tensor([4, 1, 5, 0, 3, 2])


def pair(batch: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A student's and a teacher's batch `[batch, width]`, correlated."""
    generator = torch.Generator().manual_seed(batch * 1000 + width)
    student = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    teacher = student @ torch.randn(width, width, generator=generator, dtype=torch.float64) + 3
    return student.to(dtype), teacher.to(dtype)


def softmax(row: Tensor) -> Tensor:
    exponentials = (row - row.max().detach()).exp()
    return exponentials / exponentials.sum()


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


def assert_equal(ours: Loss, theirs: Loss) -> None:
    """In value and gradient, in float64 and float32."""
    student, teacher = (z / 3 for z in pair(6, 7))
    expected = theirs(student.requires_grad_(), teacher)
    expected_gradient = gradient(expected, student)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        own = student.detach().to(dtype).requires_grad_()
        loss = ours(own, teacher.to(dtype))
        assert loss.dtype == dtype
        assert loss.ndim == 0
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        assert (gradient(loss, own) - expected_gradient).norm() <= tolerance * expected_gradient.norm()
