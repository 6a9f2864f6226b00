import torch

from rsd.methods.kd import kd_loss
from tests.rsd.methods.formula import ORDER, assert_equal, pair, softmax


def textbook_kd(student, teacher, temperature):
    rows = zip(student, teacher, strict=True)
    pairs = [(softmax(s / temperature), softmax(t / temperature)) for s, t in rows]
    return temperature**2 * sum((t * (t / s).log()).sum() for s, t in pairs) / len(student)


def test_equals_the_papers_formula():
    assert_equal(kd_loss, lambda s, t: textbook_kd(s, t, 1.0))
    assert_equal(lambda s, t: kd_loss(s, t, temperature=4.0), lambda s, t: textbook_kd(s, t, 4.0))


def test_the_order_of_the_batch_changes_nothing():
    student, teacher = pair(6, 7)
    assert torch.allclose(kd_loss(student[ORDER], teacher[ORDER]), kd_loss(student, teacher), rtol=1e-9)
