"""The loss of RSD, against its definition."""

import pytest
import torch

from rsd.methods.rsd import correlate, rsd_loss, rsd_terms
from tests.rsd.methods.formula import pair


def textbook(student, teacher):
    """The definition, entry by entry, in float64: the D x D matrix and a mask."""
    s, t = student.double(), teacher.double()
    s = (s - s.mean(0)) / (s.std(0, correction=0) + 1e-5)
    t = (t - t.mean(0)) / (t.std(0, correction=0) + 1e-5)
    p = torch.einsum("bi,bj->ij", t, s) / len(s)
    off = ~torch.eye(len(p), dtype=torch.bool)
    return (torch.diagonal(p) - 1).pow(2).sum(), p[off].pow(2).sum()


# B < D takes the Gram form, B >= D the matrix form; the last three stand around the border.
SHAPES = [(2, 5), (16, 64), (32, 7), (128, 96), (48, 48), (47, 48), (49, 48)]


@pytest.mark.parametrize(("batch", "width"), SHAPES)
def test_equals_the_definition_in_value_and_gradient(batch, width):
    student, teacher = pair(batch, width)
    student.requires_grad_()
    expected = textbook(student, teacher)
    for ours, theirs in zip(rsd_terms(student, teacher), expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
        (g_ours,) = torch.autograd.grad(ours, student, retain_graph=True)
        (g_theirs,) = torch.autograd.grad(theirs, student, retain_graph=True)
        assert (g_ours - g_theirs).norm() <= 1e-6 * g_theirs.norm()


@pytest.mark.parametrize(("batch", "width"), [(3, 7), (8, 5), (6, 6)])
def test_the_gradient_of_both_sums_is_numerically_right(batch, width):
    """Of the teacher, too: whoever correlates two students needs it."""
    student, teacher = (z.requires_grad_() for z in pair(batch, width))
    assert torch.autograd.gradcheck(rsd_terms, (student, teacher))
    assert not correlate(student, teacher).diagonal.requires_grad


@pytest.mark.parametrize(("batch", "width"), [(16, 40), (40, 16)])
def test_compiled_in_one_graph_it_is_the_same(batch, width):
    student, teacher = pair(batch, width, torch.float32)
    losses = [loss(student.requires_grad_(), teacher) for loss in (torch.compile(rsd_loss, fullgraph=True), rsd_loss)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(loss, student)[0] for loss in losses)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kappa", [0.0, 0.01, 1.0])
def test_the_loss_is_invariance_plus_kappa_times_redundancy(kappa):
    student, teacher = pair(16, 12)
    invariance, redundancy = textbook(student, teacher)
    assert rsd_loss(student, teacher, kappa=kappa).item() == pytest.approx((invariance + kappa * redundancy).item())


@pytest.mark.parametrize(("batch", "width"), [(16, 64), (64, 16)])
def test_unchanged_by_shift_scale_and_order(batch, width):
    student, teacher = pair(batch, width)
    before = rsd_loss(student, teacher).item()
    order = torch.randperm(batch)
    shift, scale = torch.randn(width, dtype=torch.float64), torch.rand(width, dtype=torch.float64) + 0.5
    assert rsd_loss(student + shift, teacher - 2 * shift).item() == pytest.approx(before, rel=1e-9)
    assert rsd_loss(student * scale, teacher).item() == pytest.approx(before, rel=1e-3)  # eps is not scaled
    assert rsd_loss(student[order], teacher[order]).item() == pytest.approx(before, rel=1e-9)


def test_zero_where_the_correlation_is_the_identity():
    orthogonal = torch.linalg.qr(torch.randn(64, 9, dtype=torch.float64) - 0.0).Q
    white = torch.linalg.qr(orthogonal - orthogonal.mean(0)).Q * 1e3  # centred, uncorrelated, far above eps
    invariance, redundancy = rsd_terms(white, white)
    assert invariance.item() == pytest.approx(0, abs=1e-9)
    assert redundancy.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("batch", "width"), [(2, 6), (8, 40), (40, 8)])
def test_finite_with_a_constant_dimension(dtype, batch, width):
    student, teacher = pair(batch, width, dtype)
    student[:, 0], teacher[:, 1] = 3.0, -2.0
    student.requires_grad_()
    loss = rsd_loss(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_the_diagonal_is_pearsons_correlation_per_dimension():
    student, teacher = pair(50, 4)
    expected = [torch.corrcoef(torch.stack([student[:, i], teacher[:, i]]))[0, 1] for i in range(4)]
    assert torch.allclose(correlate(student, teacher).diagonal, torch.stack(expected), atol=1e-4)


@pytest.mark.parametrize(
    ("shapes", "sentence"), [(((4, 3), (4, 5)), "one shape"), (((4,), (4,)), "one shape"), (((1, 3), (1, 3)), "batch")]
)
def test_shapes_that_cannot_be_correlated_are_refused(shapes, sentence):
    with pytest.raises(ValueError, match=sentence):
        rsd_loss(torch.randn(shapes[0]), torch.randn(shapes[1]))
