import math

import pytest
import torch

from rsd.methods.losses import (
    cc_loss,
    correlate,
    crd_loss,
    dist_loss,
    dkd_loss,
    feature_loss,
    kd_loss,
    ofa_loss,
    rkd_loss,
    rsd_loss,
    rsd_terms,
)


def textbook(student, teacher):
    """The definition, entry by entry, in float64: the D x D matrix and a mask."""
    s, t = student.double(), teacher.double()
    s = (s - s.mean(0)) / (s.std(0, correction=0) + 1e-5)
    t = (t - t.mean(0)) / (t.std(0, correction=0) + 1e-5)
    p = torch.einsum("bi,bj->ij", t, s) / len(s)
    off = ~torch.eye(len(p), dtype=torch.bool)
    return (torch.diagonal(p) - 1).pow(2).sum(), p[off].pow(2).sum()


def pair(batch, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(batch * 1000 + width)
    student = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    teacher = student @ torch.randn(width, width, generator=generator, dtype=torch.float64) + 3
    return student.to(dtype), teacher.to(dtype)


# B < D takes the Gram form, B > D the matrix form; the last three stand around the border 2B = D.
SHAPES = [(2, 5), (16, 64), (32, 7), (128, 96), (48, 96), (47, 96), (49, 96)]


@pytest.mark.parametrize(("batch", "width"), SHAPES)
def test_equals_the_definition_in_value_and_gradient(batch, width):
    student, teacher = pair(batch, width)
    student.requires_grad_()
    expected = textbook(student, teacher)
    found = rsd_terms(student, teacher)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
        (g_ours,) = torch.autograd.grad(ours, student, retain_graph=True)
        (g_theirs,) = torch.autograd.grad(theirs, student, retain_graph=True)
        assert (g_ours - g_theirs).norm() <= 1e-6 * g_theirs.norm()


@pytest.mark.parametrize("kappa", [0.0, 0.01, 1.0])
def test_the_loss_is_invariance_plus_kappa_times_redundancy(kappa):
    student, teacher = pair(16, 12)
    invariance, redundancy = textbook(student, teacher)
    assert rsd_loss(student, teacher, kappa=kappa).item() == pytest.approx((invariance + kappa * redundancy).item())


@pytest.mark.parametrize(("batch", "width"), [(16, 64), (64, 16)])
def test_unchanged_by_shift_scale_and_order_of_the_batch(batch, width):
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
def test_finite_in_value_and_gradient_with_a_constant_dimension(dtype, batch, width):
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


# The rivals. Each formulation below is the paper's, written out entry by entry, in float64.


def softmax(row):
    exponentials = (row - row.max().detach()).exp()
    return exponentials / exponentials.sum()


def textbook_kd(student, teacher, temperature):
    rows = zip(student, teacher, strict=True)
    pairs = [(softmax(s / temperature), softmax(t / temperature)) for s, t in rows]
    return temperature**2 * sum((t * (t / s).log()).sum() for s, t in pairs) / len(student)


def textbook_dkd(student, teacher, target, alpha, beta, temperature):
    total = 0
    for s, t, y in zip(student, teacher, target, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        other = [c for c in range(len(p)) if c != y]
        two_way = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        p_hat, q_hat = p[other] / (1 - p[y]), q[other] / (1 - q[y])
        total = total + alpha * two_way + beta * (p_hat * (p_hat / q_hat).log()).sum()
    return temperature**2 * total / len(student)


def pearson(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def textbook_dist(student, teacher, beta, gamma, temperature):
    p = torch.stack([softmax(row / temperature) for row in teacher])
    q = torch.stack([softmax(row / temperature) for row in student])
    inter = sum(1 - pearson(a, b) for a, b in zip(p, q, strict=True)) / len(p)
    intra = sum(1 - pearson(a, b) for a, b in zip(p.T, q.T, strict=True)) / p.shape[1]
    return temperature**2 * (beta * inter + gamma * intra)


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


def textbook_cc(student, teacher):
    difference = abs(student - teacher)
    pairs = [(difference[i] * difference[i + 1]).sum() for i in range(len(student) - 1)]
    return 0.02 * sum(pairs) / len(pairs)


def textbook_crd(scores, log_partition, temperature):
    """The first column is the positive; `M = 50`, so `Z = 50 exp(log_partition)`."""
    negatives, images = scores.shape[1] - 1, 50
    p = (scores / temperature).exp() / (images * math.exp(log_partition))
    h = p / (p + negatives / images)
    return -(h[:, 0].log() + (1 - h[:, 1:]).log().sum(1)).mean()


def textbook_ofa(student, teacher, target, eps, temperature):
    total = 0
    for s, t, y in zip(student, teacher, target, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        for c in range(len(p)):
            weight = (p[c] + 1) ** eps - 1 if c == y else p[c] ** eps
            total = total - weight * q[c].log()
    return total / len(student)


TARGET = torch.tensor([3, 0, 6, 2, 2, 5])

RIVALS = {
    "kd": (lambda s, t: kd_loss(s, t), lambda s, t: textbook_kd(s, t, 1.0)),
    "kd, T 4": (lambda s, t: kd_loss(s, t, temperature=4.0), lambda s, t: textbook_kd(s, t, 4.0)),
    "dkd": (lambda s, t: dkd_loss(s, t, TARGET), lambda s, t: textbook_dkd(s, t, TARGET, 1.0, 2.0, 1.0)),
    "dkd, T 4": (
        lambda s, t: dkd_loss(s, t, TARGET, alpha=0.5, beta=8.0, temperature=4.0),
        lambda s, t: textbook_dkd(s, t, TARGET, 0.5, 8.0, 4.0),
    ),
    "dist": (lambda s, t: dist_loss(s, t), lambda s, t: textbook_dist(s, t, 1.0, 1.0, 1.0)),
    "dist, T 4": (
        lambda s, t: dist_loss(s, t, beta=2.0, gamma=0.5, temperature=4.0),
        lambda s, t: textbook_dist(s, t, 2.0, 0.5, 4.0),
    ),
    "rkd": (lambda s, t: rkd_loss(s, t), lambda s, t: textbook_rkd(s, t, 25.0, 50.0)),
    "rkd, angles": (lambda s, t: rkd_loss(s, t, distance_weight=0), lambda s, t: textbook_rkd(s, t, 0, 50.0)),
    "cc": (cc_loss, textbook_cc),
    "crd": (
        lambda s, t: crd_loss(s[:, 0].tanh(), s[:, 1:].tanh(), log_partition=0.3, temperature=0.5),
        lambda s, t: textbook_crd(s.tanh(), 0.3, 0.5),
    ),
    "ofa": (lambda s, t: ofa_loss(s, t, TARGET), lambda s, t: textbook_ofa(s, t, TARGET, 1.0, 1.0)),
    "ofa, eps 1.5": (
        lambda s, t: ofa_loss(s, t, TARGET, eps=1.5, temperature=2.0),
        lambda s, t: textbook_ofa(s, t, TARGET, 1.5, 2.0),
    ),
    "fitnet": (feature_loss, lambda s, t: sum((s - t).flatten() ** 2) / s.numel()),
}


def gradient(loss, student):
    return torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_a_rival_equals_its_papers_formula_in_value_and_gradient(name, dtype, tolerance):
    ours, theirs = RIVALS[name]
    student, teacher = (z / 3 for z in pair(6, 7))
    expected = theirs(student.requires_grad_(), teacher)
    found_in = student.detach().to(dtype).requires_grad_()
    found = ours(found_in, teacher.to(dtype))
    assert found.dtype == dtype
    assert found.ndim == 0
    assert found.item() == pytest.approx(expected.item(), rel=tolerance)
    g_ours, g_theirs = gradient(found, found_in), gradient(expected, student)
    assert (g_ours - g_theirs).norm() <= tolerance * g_theirs.norm()


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "rkd"])
def test_unchanged_by_the_order_of_the_batch(name):
    student, teacher = pair(6, 7)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    losses = {
        "kd": lambda o: kd_loss(student[o], teacher[o]),
        "dkd": lambda o: dkd_loss(student[o], teacher[o], TARGET[o]),
        "dist": lambda o: dist_loss(student[o], teacher[o]),
        "rkd": lambda o: rkd_loss(student[o], teacher[o]),
    }
    assert losses[name](order).item() == pytest.approx(losses[name](torch.arange(6)).item(), rel=1e-9)


def test_cc_depends_on_the_order_of_the_batch():
    student, teacher = pair(6, 7)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    assert cc_loss(student[order], teacher[order]).item() != pytest.approx(cc_loss(student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("loss", [kd_loss, dist_loss, rkd_loss, cc_loss, feature_loss])
def test_zero_where_teacher_and_student_agree(loss):
    student, _ = pair(6, 7)
    assert loss(student, student).item() == pytest.approx(0, abs=1e-9)


def test_ofa_at_eps_1_is_kd_plus_the_teachers_entropy():
    student, teacher = pair(6, 7)
    p = teacher.softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    assert ofa_loss(student, teacher, TARGET).item() == pytest.approx((kd_loss(student, teacher) + entropy).item())


def test_rkd_compares_embeddings_of_different_widths_and_ignores_scale_and_shift():
    student, _ = pair(6, 7)
    wider = torch.cat([student, torch.zeros(6, 4)], dim=1)
    assert rkd_loss(student, 5 * wider - 3).item() == pytest.approx(0, abs=1e-9)


HALVES = {
    "kd": lambda s, t, y: kd_loss(s, t),
    "dkd": dkd_loss,
    "dist": lambda s, t, y: dist_loss(s, t),
    "rkd": lambda s, t, y: rkd_loss(s, t),
    "cc": lambda s, t, y: cc_loss(s, t),
    "crd": lambda s, t, y: crd_loss(s[:, 0].tanh(), s[:, 1:].tanh(), log_partition=0.0),
    "ofa": ofa_loss,
    "fitnet": lambda s, t, y: feature_loss(s, t),
}


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("same", ["a dimension", "the whole batch"])
@pytest.mark.parametrize("batch", [2, 6])
def test_a_rival_is_finite_where_something_is_constant_and_half_precision_is_computed_in_float32(
    name, dtype, same, batch
):
    student, teacher = pair(6, 7, dtype)
    student, teacher = student[:batch], teacher[:batch]
    student[:, 0], teacher[:, 1] = 3.0, -2.0
    if same == "the whole batch":
        student[1:], teacher[1:] = student[0].clone(), teacher[0].clone()
    student.requires_grad_()
    loss = HALVES[name](student, teacher, TARGET[:batch])
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", ["rsd", *HALVES])
@pytest.mark.parametrize(("batch", "width"), [(6, 7), (6, 40), (6, 4)])
def test_autocast_changes_nothing(name, batch, width):
    loss = (HALVES | {"rsd": lambda s, t, y: rsd_loss(s, t, kappa=1.0)})[name]
    student, teacher = pair(batch, width, torch.float32)
    target = TARGET % width
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher, target)
    assert torch.equal(found, loss(student, teacher, target))


@pytest.mark.parametrize("loss", [kd_loss, dist_loss, rkd_loss])
def test_what_is_not_a_number_stays_seen(loss):
    student, teacher = pair(6, 7)
    student[2, 3] = float("nan")
    assert torch.isnan(loss(student, teacher))


def test_dkd_and_ofa_are_finite_where_the_teacher_is_certain():
    student, teacher = pair(6, 7, torch.float32)
    teacher[torch.arange(6), TARGET] += 200
    assert torch.isfinite(dkd_loss(student, teacher, TARGET))
    assert torch.isfinite(ofa_loss(student, teacher, TARGET, eps=1.5))


def test_features_that_are_not_aligned_are_refused():
    with pytest.raises(ValueError, match="features of one shape"):
        feature_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match="expected .B. and .B, K."):
        crd_loss(torch.zeros(2, 1), torch.zeros(2, 3), log_partition=0.0)
