"""Distillation losses: pure functions from batches to scalars, one per method.

Half-precision inputs are computed in float32, also under autocast; float64 stays float64.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-5  # added to the standard deviation


def _pair(student: Tensor, teacher: Tensor, *, width: bool = True, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Both in one precision, float32 at least; their shapes checked (`width`: also the second dimension)."""
    if student.ndim != 2 or teacher.ndim != 2 or student.shape[: 1 + width] != teacher.shape[: 1 + width]:
        raise ValueError(
            f"expected student and teacher of one {'shape [B, D]' if width else 'batch [B, *]'}, found "
            f"{list(student.shape)} and {list(teacher.shape)}"
            f"{'; map the student to the width of the teacher first (rsd.methods.aad.AAD)' if width else ''}"
        )
    if len(student) < at_least:
        raise ValueError(f"expected a batch of at least {at_least}, found {len(student)}; raise the batch size")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.to(dtype)


def _centred(z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`z` with zero mean along `dim`, and its biased standard deviation there, kept as a dimension of 1.

    What is constant but for rounding becomes zeros without a gradient, with a deviation of 1: the
    definition's gradient is unbounded there, noise that overflows in fp16.
    """
    mean = z.mean(dim=dim, keepdim=True)
    centred = z - mean
    variance = centred.square().mean(dim=dim, keepdim=True)
    varies = ~(variance <= (8 * torch.finfo(z.dtype).eps * mean).square())  # NaN varies, and so stays seen
    return torch.where(varies, centred, 0.0), torch.where(varies, variance, 1.0).sqrt()  # sqrt has no gradient at 0


def _standardize(z: Tensor) -> Tensor:
    """Zero mean and unit biased standard deviation per column of `[B, D]`."""
    centred, deviation = _centred(z, dim=0)
    return centred / (deviation + _EPS)


class Correlation(NamedTuple):
    """What the cross-correlation `P = Zt' Zs / B` of two standardised batches says."""

    invariance: Tensor
    """`sum_i (P_ii - 1)^2`, a scalar."""
    redundancy: Tensor
    """`sum_{i != j} P_ij^2`, a scalar. That of a random pair is about `D^2 / B`."""
    diagonal: Tensor
    """`P_ii`, `[D]`: how well each dimension of the teacher is matched; 1 is perfect, 0 chance."""


def correlate(student: Tensor, teacher: Tensor) -> Correlation:
    """The Pearson cross-correlation of redundancy suppression (arXiv 2507.21844).

    `||P||_F^2 = sum((Zt Zt') * (Zs Zs')) / B^2`, so a batch smaller than the width never needs the D x D
    matrix: the B x B Gram matrices give the same number. The cheaper form, counted in multiplications of
    forward and backward (2 B D^2 against 4 B^2 D), is taken.

    Args:
        student: `[B, D]`, B >= 2, already mapped to the teacher's width.
        teacher: `[B, D]`.

    Raises:
        ValueError: the shapes differ, are not two-dimensional, or B is 1.
    """
    student, teacher = _pair(student, teacher, at_least=2)
    z_s, z_t = _standardize(student), _standardize(teacher)
    batch, width = z_s.shape
    diagonal = (z_t * z_s).mean(dim=0)
    with torch.autocast(z_s.device.type, enabled=False):
        if 2 * batch < width:
            squares = ((z_t @ z_t.T) * (z_s @ z_s.T)).sum() / batch**2
        else:
            squares = (z_t.T @ z_s / batch).square().sum()
    return Correlation((diagonal - 1).square().sum(), squares - diagonal.square().sum(), diagonal)


def rsd_terms(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of redundancy suppression, before `kappa`: invariance and redundancy, see `correlate`."""
    found = correlate(student, teacher)
    return found.invariance, found.redundancy


def rsd_loss(student: Tensor, teacher: Tensor, *, kappa: float = 0.01) -> Tensor:
    """Redundancy suppression distillation (arXiv 2507.21844): `invariance + kappa * redundancy`.

    A sum over the `D x D` correlations, not a mean. Shapes and errors as in `correlate`.
    """
    invariance, redundancy = rsd_terms(student, teacher)
    return invariance + kappa * redundancy


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): `T^2 KL(p_t || p_s)`, mean over the batch.

    Args:
        student_logits, teacher_logits: `[B, classes]`; `p = softmax(logits / temperature)`.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    return temperature**2 * _divergence(teacher / temperature, student / temperature).mean()


def _divergence(of: Tensor, against: Tensor) -> Tensor:
    """`KL(softmax(of) || softmax(against))` for each row, `[B]`."""
    log_p, log_q = F.log_softmax(of, dim=1), F.log_softmax(against, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 2.0,
    temperature: float = 1.0,
) -> Tensor:
    """Decoupled knowledge distillation (CVPR 2022, arXiv 2203.08679, eq. 7): `T^2 (alpha TCKD + beta NCKD)`.

    TCKD is the divergence of the two-way distributions (target, not target); NCKD that of the distributions
    over the classes that are not the target. With `beta = 1 - p_t[target]` it would be KD.

    Args:
        student_logits, teacher_logits: `[B, classes]`.
        target: class indices `[B]`.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    target = target[:, None]
    others = torch.arange(student.shape[1] - 1, device=target.device).expand(len(target), -1)
    others = others + (others >= target)  # all columns but the target's

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        rest = logits.gather(1, others)
        return torch.cat([logits.gather(1, target), rest.logsumexp(dim=1, keepdim=True)], dim=1), rest

    target_s, others_s = split(student / temperature)
    target_t, others_t = split(teacher / temperature)
    loss = alpha * _divergence(target_t, target_s) + beta * _divergence(others_t, others_s)
    return temperature**2 * loss.mean()


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """DIST (NeurIPS 2022, arXiv 2205.10536): `T^2 (beta (1 - rho_rows) + gamma (1 - rho_columns))`.

    `rho_rows` is Pearson's correlation of `p_s` and `p_t` over the classes, mean over the images (inter-class);
    `rho_columns` that over the batch, mean over the classes (intra-class). What is constant correlates with
    nothing.

    Args:
        student_logits, teacher_logits: `[B, classes]`; `p = softmax(logits / temperature)`.
    """
    student, teacher = _pair(student_logits, teacher_logits, at_least=2)
    p_s, p_t = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    rows, columns = _pearson(p_s, p_t, dim=1).mean(), _pearson(p_s, p_t, dim=0).mean()
    return temperature**2 * (beta * (1 - rows) + gamma * (1 - columns))


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    (centred_a, deviation_a), (centred_b, deviation_b) = _centred(a, dim), _centred(b, dim)
    return ((centred_a / deviation_a) * (centred_b / deviation_b)).mean(dim=dim)


def rkd_loss(student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Relational knowledge distillation (CVPR 2019, arXiv 1904.05068, eq. 4 to 9).

    `distance_weight * huber(d_s, d_t) + angle_weight * huber(a_s, a_t)`: `d_ij = |z_i - z_j|` over its mean over
    `i != j`; `a_ijk` the cosine of the angle at `z_j` between `z_i` and `z_k`; huber the smooth L1 with
    threshold 1, mean over all `B^2` pairs and `B^3` triplets. Points that coincide have distance and cosine 0.

    From the Gram matrix: memory grows with `B^3`, never with `B^2 D`.

    Args:
        student: `[B, D_s]`, B >= 2; the widths may differ.
        teacher: `[B, D_t]`.
    """
    student, teacher = _pair(student, teacher, width=False, at_least=2)
    distance_s, angle_s = _relations(student)
    distance_t, angle_t = _relations(teacher)
    return distance_weight * F.smooth_l1_loss(distance_s, distance_t) + angle_weight * F.smooth_l1_loss(
        angle_s, angle_t
    )


def _relations(z: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean `[B, B]`, and cosines `[B, B, B]` of the angles; the first index is the vertex."""
    z = z - z.mean(dim=0)  # nothing cancels that need not
    with torch.autocast(z.device.type, enabled=False):
        gram = z @ z.T
    square = gram.diagonal()
    sums = square[:, None] + square[None, :]
    squares = sums - 2 * gram
    pairs = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    apart = pairs & ~(squares <= 8 * torch.finfo(z.dtype).eps * sums)  # further than rounding; NaN stays seen
    distance = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    mean = distance.sum() / pairs.sum()
    dot = gram[None] - gram[:, :, None] - gram[:, None, :] + square[:, None, None]  # <z_i - z_j, z_k - z_j>
    inverse = torch.where(apart, 1 / torch.where(apart, distance, 1.0), 0.0)
    return distance / torch.where(mean == 0, 1.0, mean), dot * inverse[:, :, None] * inverse[:, None, :]


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation congruence (ICCV 2019, arXiv 1904.01802): `0.02 mean_i sum_d D_id D_(i+1)d`, `D = |z_s - z_t|`.

    Pairs each image with the next one, so it depends on the order of the batch.

    Args:
        student, teacher: `[B, D]`, B >= 2, each after its linear embedding.
    """
    student, teacher = _pair(student, teacher, at_least=2)
    difference = (student - teacher).abs()
    return 0.02 * (difference[:-1] * difference[1:]).sum(dim=1).mean()


def crd_loss(
    positive: Tensor, negatives: Tensor, *, log_partition: Tensor | float, temperature: float = 0.07
) -> Tensor:
    """Contrastive representation distillation (ICLR 2020, arXiv 1910.10699, eq. 18), for one direction.

    `-mean_b (log h(positive) + sum_k log(1 - h(negative_k)))` with `h = p / (p + K / M)`, `p = exp(x / T) / Z`:
    how surely a pair of vectors comes from one image, against K pairs that do not, M images in all. `Z` is held
    constant (Wu et al. 2018, arXiv 1805.01978, eq. 8): M times the mean of `exp(x / T)` over the first batch.

    Args:
        positive: cosine similarity of each anchor to its own image's vector, `[B]`.
        negatives: to those of K other images, `[B, K]`.
        log_partition: `log(Z / M)`.
    """
    if positive.ndim != 1 or negatives.ndim != 2 or len(positive) != len(negatives):
        raise ValueError(f"expected [B] and [B, K], found {list(positive.shape)} and {list(negatives.shape)}")
    dtype = torch.promote_types(torch.promote_types(positive.dtype, negatives.dtype), torch.float32)
    chance = log_partition + math.log(negatives.shape[1])
    of_positive = F.logsigmoid(positive.to(dtype) / temperature - chance)  # log h
    of_negatives = F.logsigmoid(chance - negatives.to(dtype) / temperature)  # log (1 - h)
    return -(of_positive + of_negatives.sum(dim=1)).mean()


def ofa_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, eps: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """OFA-KD (NeurIPS 2023, arXiv 2310.19444, eq. 5): `-sum_c ((p_t + 1_y)^eps - 1_y) log p_s`, mean over the batch.

    `eps` raises the target class's share; at 1 this is KD at T 1 plus the teacher's entropy.

    Args:
        student_logits, teacher_logits: `[B, classes]`; `p = softmax(logits / temperature)`.
        target: class indices `[B]`.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    p_t = F.softmax(teacher / temperature, dim=1)
    is_target = F.one_hot(target, p_t.shape[1]).to(p_t.dtype)
    weight = (p_t + is_target) ** eps - is_target
    return -(weight * F.log_softmax(student / temperature, dim=1)).sum(dim=1).mean()


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNet (ICLR 2015, arXiv 1412.6550, eq. 3): the mean squared difference of two aligned features.

    Args:
        student, teacher: of one shape, such as `[B, C, H, W]`.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"expected features of one shape, found {list(student.shape)} and {list(teacher.shape)}")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return F.mse_loss(student.to(dtype), teacher.to(dtype))
