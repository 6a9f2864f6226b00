import torch

from rsd.methods.dkd import dkd_loss
from tests.rsd.methods.formula import ORDER, TARGET, assert_equal, pair, softmax


def textbook_dkd(student, teacher, target, alpha, beta, temperature):
    total = 0
    for s, t, y in zip(student, teacher, target, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        other = [c for c in range(len(p)) if c != y]
        two_way = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        p_hat, q_hat = p[other] / (1 - p[y]), q[other] / (1 - q[y])
        total = total + alpha * two_way + beta * (p_hat * (p_hat / q_hat).log()).sum()
    return temperature**2 * total / len(student)


def test_equals_the_papers_formula():
    assert_equal(lambda s, t: dkd_loss(s, t, TARGET), lambda s, t: textbook_dkd(s, t, TARGET, 1.0, 2.0, 1.0))
    assert_equal(
        lambda s, t: dkd_loss(s, t, TARGET, alpha=0.5, beta=8.0, temperature=4.0),
        lambda s, t: textbook_dkd(s, t, TARGET, 0.5, 8.0, 4.0),
    )


def test_the_order_of_the_batch_changes_nothing():
    student, teacher = pair(6, 7)
    moved = dkd_loss(student[ORDER], teacher[ORDER], TARGET[ORDER])
    assert torch.allclose(moved, dkd_loss(student, teacher, TARGET), rtol=1e-9)


def test_finite_where_the_teacher_is_certain():
    student, teacher = pair(6, 7, torch.float32)
    teacher[torch.arange(6), TARGET] += 200
    assert torch.isfinite(dkd_loss(student, teacher, TARGET))
