import pytest
import torch

from rsd.methods.rkd import rkd_loss
from tests.rsd.methods.formula import ORDER, assert_equal, pair


def textbook_rkd(student, teacher, distance_weight, angle_weight):
    batch = range(len(student))

    def huber(x):
        return 0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5

    def distances(z):
        d = [[(z[i] - z[j]).norm() if i != j else z.new_zeros(()) for j in batch] for i in batch]
        mean = sum(sum(row) for row in d) / (len(z) * (len(z) - 1))
        return [value / mean for row in d for value in row]

    def angles(z):
        def edge(i, j):
            return (z[i] - z[j]) / (z[i] - z[j]).norm() if i != j else torch.zeros_like(z[0])

        return [edge(i, j) @ edge(k, j) for i in batch for j in batch for k in batch]

    d = [huber(a - b) for a, b in zip(distances(student), distances(teacher), strict=True)]
    a = [huber(a - b) for a, b in zip(angles(student), angles(teacher), strict=True)]
    return distance_weight * sum(d) / len(d) + angle_weight * sum(a) / len(a)


def test_equals_the_papers_formula():
    assert_equal(rkd_loss, lambda s, t: textbook_rkd(s, t, 25.0, 50.0))
    assert_equal(lambda s, t: rkd_loss(s, t, distance_weight=0), lambda s, t: textbook_rkd(s, t, 0, 50.0))


def test_the_order_of_the_batch_changes_nothing():
    student, teacher = pair(6, 7)
    assert torch.allclose(rkd_loss(student[ORDER], teacher[ORDER]), rkd_loss(student, teacher), rtol=1e-9)


def test_widths_may_differ_scale_and_shift_too():
    student, _ = pair(6, 7)
    wider = torch.cat([student, torch.zeros(6, 4)], dim=1)
    assert rkd_loss(student, 5 * wider - 3).item() == pytest.approx(0, abs=1e-9)
