import pytest
import torch

from rsd.machine.errors import UserError
from rsd.methods.base import Setting
from rsd.methods.fitnet import Aligner, FitNetDistiller, feature_loss, resize_matrix
from rsd.models.features import StageShape
from rsd.models.outputs import Outputs
from tests.rsd.methods.formula import assert_equal
from tests.rsd.methods.tiny import SHAPE, cnn, take_step, task_of, teacher_outputs, vit


def test_a_teacher_as_student_costs_nothing_once_aligned():
    task = task_of(FitNetDistiller, cnn()).eval()
    for aligner in task.trainable_module.get_submodule("projection").children():
        torch.nn.init.dirac_(aligner.widen.weight)
        torch.nn.init.zeros_(aligner.widen.bias)
    result = take_step(task)
    assert [result[f"fitnet_{stage}"].item() for stage in (1, 2, 3, 4)] == pytest.approx([0] * 4, abs=1e-10)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (StageShape(3, 8, 8, 0, True), StageShape(5, 4, 4, 0, False)),
        (StageShape(3, 2, 4, 1, True), StageShape(5, 7, 3, 0, True)),
        (StageShape(3, 6, 6, 0, False), StageShape(3, 6, 6, 2, True)),
    ],
)
def test_an_aligner_gives_the_teachers_shape(student, teacher):
    flat = Aligner(student, teacher)(torch.ones(2, *student[:3]))
    assert flat.shape == (2, *teacher[:3])
    assert torch.allclose(flat, flat[:, :, :1, :1].expand_as(flat), atol=1e-6)


def test_a_map_shrinks_by_means_and_grows_linearly():
    assert torch.equal(resize_matrix(4, 2), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))
    assert torch.allclose(resize_matrix(2, 4) @ torch.tensor([0.0, 1.0]), torch.tensor([0, 0.25, 0.75, 1]))
    assert torch.equal(resize_matrix(3, 3), torch.eye(3))


def test_the_loss_is_the_stages_weighted_sum():
    result = take_step(task_of(FitNetDistiller, weight=0.2))
    total = sum(result[f"fitnet_{stage}"] for stage in (1, 2, 3, 4))
    assert (result["loss"] - result["cross_entropy"]).item() == pytest.approx(0.2 * total.item(), rel=1e-4)


def test_without_the_teachers_stages_it_is_refused():
    with pytest.raises(ValueError, match="give teacher_stages and image_shape"):
        FitNetDistiller(vit(), Setting(teacher_width=20, image_shape=SHAPE))
    with pytest.raises(ValueError, match="no stages of the teacher"):
        take_step(task_of(FitNetDistiller), teacher=Outputs(teacher_outputs().embedding, teacher_outputs().logits))


def test_a_student_without_stages_is_refused_before_training():
    student = cnn()
    student.feature_info = student.feature_info[:2]
    with pytest.raises(UserError, match="take apart into four stages.*a method that needs no stage features"):
        task_of(FitNetDistiller, student)


def test_the_loss_equals_the_papers_formula():
    assert_equal(feature_loss, lambda s, t: ((s - t).flatten() ** 2).sum() / s.numel())


def test_features_that_are_not_aligned_are_refused():
    with pytest.raises(ValueError, match="features of one shape"):
        feature_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
