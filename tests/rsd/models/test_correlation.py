import numpy as np
import pytest
import torch

from rsd.methods.rsd import correlate, rsd_terms
from rsd.models.correlation import cross_correlation, off_diagonal_rms


def test_it_is_pearsons_r_of_every_pair():
    student, teacher = torch.randn(40, 3), torch.randn(40, 3)
    expected = np.corrcoef(teacher.numpy(), student.numpy(), rowvar=False)[:3, 3:]
    assert np.allclose(cross_correlation(student, teacher).numpy(), expected, atol=1e-6)


def test_it_is_the_matrix_inside_the_loss():
    student, teacher = torch.randn(64, 12, dtype=torch.float64), torch.randn(64, 12, dtype=torch.float64)
    correlation = cross_correlation(student, teacher)
    invariance, redundancy = rsd_terms(student, teacher)
    assert (correlation.diagonal() - 1).square().sum().item() == pytest.approx(invariance.item(), rel=1e-3)
    assert off_diagonal_rms(correlation) ** 2 * 12 * 11 == pytest.approx(redundancy.item(), rel=1e-3)
    assert torch.allclose(correlation.diagonal(), correlate(student, teacher).diagonal, atol=1e-4)


def test_a_constant_dimension_correlates_with_nothing():
    student = torch.randn(20, 4)
    student[:, 2] = 0.1
    correlation = cross_correlation(student, torch.randn(20, 4))
    assert (correlation[:, 2] == 0).all()
    assert torch.isfinite(correlation).all()


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        cross_correlation(torch.randn(5, 3), torch.randn(5, 4))
