import torch

from rsd.methods.dist import dist_loss
from tests.rsd.methods.formula import ORDER, assert_equal, pair, softmax


def pearson(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def textbook_dist(student, teacher, beta, gamma, temperature):
    p = torch.stack([softmax(row / temperature) for row in teacher])
    q = torch.stack([softmax(row / temperature) for row in student])
    inter = sum(1 - pearson(a, b) for a, b in zip(p, q, strict=True)) / len(p)
    intra = sum(1 - pearson(a, b) for a, b in zip(p.T, q.T, strict=True)) / p.shape[1]
    return temperature**2 * (beta * inter + gamma * intra)


def test_equals_the_papers_formula():
    assert_equal(dist_loss, lambda s, t: textbook_dist(s, t, 1.0, 1.0, 1.0))
    assert_equal(
        lambda s, t: dist_loss(s, t, beta=2.0, gamma=0.5, temperature=4.0),
        lambda s, t: textbook_dist(s, t, 2.0, 0.5, 4.0),
    )


def test_the_order_of_the_batch_changes_nothing():
    student, teacher = pair(6, 7)
    assert torch.allclose(dist_loss(student[ORDER], teacher[ORDER]), dist_loss(student, teacher), rtol=1e-9)
