"""What is true of every method's loss."""

import pytest
import torch

from rsd.losses import cc_loss, dist_loss, dkd_loss, kd_loss, ofa_loss, rkd_loss, rsd_loss
from rsd.methods.crd import crd_loss
from rsd.methods.fitnet import feature_loss
from tests.rsd.methods.formula import TARGET, pair

LOSSES = {
    "cc": lambda s, t, y: cc_loss(s, t),
    "crd": lambda s, t, y: crd_loss(s[:, 0].tanh(), s[:, 1:].tanh(), log_partition=0.0),
    "dist": lambda s, t, y: dist_loss(s, t),
    "dkd": dkd_loss,
    "fitnet": lambda s, t, y: feature_loss(s, t),
    "kd": lambda s, t, y: kd_loss(s, t),
    "ofa": ofa_loss,
    "rkd": lambda s, t, y: rkd_loss(s, t),
    "rsd": lambda s, t, y: rsd_loss(s, t, kappa=1.0),
}


@pytest.mark.parametrize("loss", [kd_loss, dist_loss, rkd_loss, cc_loss, feature_loss])
def test_zero_where_teacher_and_student_agree(loss):
    student, _ = pair(6, 7)
    assert loss(student, student).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("same", ["a dimension", "the whole batch"])
@pytest.mark.parametrize("batch", [2, 6])
def test_finite_in_float32_where_something_is_constant(name, dtype, same, batch):
    student, teacher = pair(6, 7, dtype)
    student, teacher = student[:batch], teacher[:batch]
    student[:, 0], teacher[:, 1] = 3.0, -2.0
    if same == "the whole batch":
        student[1:], teacher[1:] = student[0].clone(), teacher[0].clone()
    student.requires_grad_()
    loss = LOSSES[name](student, teacher, TARGET[:batch])
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("batch", "width"), [(6, 7), (6, 40), (6, 4)])
def test_autocast_changes_nothing(name, batch, width):
    loss = LOSSES[name]
    student, teacher = pair(batch, width, torch.float32)
    target = TARGET % width
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = loss(student, teacher, target)
    assert torch.equal(within, loss(student, teacher, target))


@pytest.mark.parametrize("loss", [kd_loss, dist_loss, rkd_loss, rsd_loss])
def test_a_nan_makes_the_loss_nan(loss):
    student, teacher = pair(6, 7)
    student[2, 3] = float("nan")
    assert torch.isnan(loss(student, teacher))
