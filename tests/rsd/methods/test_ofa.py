from typing import Any

import pytest
import timm
import torch

from rsd.methods.base import Setting
from rsd.methods.kd import kd_loss
from rsd.methods.ofa import Branches, OFADistiller, PatchMerger, TokenBranch, ofa_loss
from rsd.methods.rsd import rsd_loss
from rsd.models.features import Stage, StageShape
from tests.rsd.methods.formula import TARGET, assert_equal, pair, softmax
from tests.rsd.methods.tiny import CLASSES, SHAPE, cnn, take_step, target, task_of, teacher_outputs, vit

SMALL_SWIN: dict[str, Any] = {"depths": (2, 2, 2, 2), "num_heads": (2, 4, 8, 16)}
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_n": ("swin_tiny_patch4_window7_224", SMALL_SWIN | {"embed_dim": 64}),
    "swin_p": ("swin_tiny_patch4_window7_224", SMALL_SWIN | {"embed_dim": 48}),
    "resmlp": ("resmlp_12_224", {}),
    "deit_t": ("deit_tiny_patch16_224", {}),
    "resnet18": ("resnet18", {}),
    "mobilenetv2": ("mobilenetv2_100", {}),
}


@pytest.mark.parametrize(
    ("student", "classes", "millions"),
    [
        ("swin_n", 1000, "28.187"),  # teacher: ConvNeXt-T
        ("resmlp", 1000, "16.325"),
        ("deit_t", 1000, "4.478"),
        ("resnet18", 1000, "4.395"),  # teacher: Swin-T
        ("mobilenetv2", 1000, "7.141"),
        ("resnet18", 100, "1.63"),
        ("mobilenetv2", 100, "2.53"),
        ("swin_p", 100, "14.86"),  # teacher: ConvNeXt-T
    ],
)
def test_branches_have_the_published_parameter_count(student, classes, millions):
    name, args = STUDENTS[student]
    with torch.device("meta"):  # shapes only
        model = timm.create_model(name, num_classes=classes, **args)
        task = OFADistiller(model, Setting(teacher_width=768, image_shape=(224, 224, 3)))
    digits = len(millions.split(".")[1])
    assert f"{task.extra_parameters / 1e6:.{digits}f}" == millions


def test_the_loss_is_the_weighted_sum_of_parts():
    task = task_of(OFADistiller, branch_weight=0.2, logits_weight=0.7, eps=1.5, temperature=2.0).eval()
    result = take_step(task)
    own = ofa_loss(result["output"], teacher_outputs().logits, target(), eps=1.5, temperature=2.0)
    assert result["ofa_logits"].item() == pytest.approx(own.item(), rel=1e-5)
    branches = sum(result[f"ofa_{stage}"] for stage in (1, 2, 3, 4))
    assert (result["loss"] - result["cross_entropy"]).item() == pytest.approx(
        (0.2 * branches + 0.7 * own).item(), rel=1e-4
    )


def test_every_loss_can_be_rsd_instead():
    task = task_of(OFADistiller, loss="rsd", kappa=0.3, rsd_weight=0.5).eval()
    result = take_step(task)
    expected = 0.5 * rsd_loss(result["output"], teacher_outputs().logits, kappa=0.3)
    assert result["ofa_logits"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_branch_gives_logits_of_its_own():
    for student in (vit(), vit(class_token=False, global_pool="avg"), cnn()):
        task = task_of(OFADistiller, student)
        branches = task.trainable_module.get_submodule("projection")
        assert isinstance(branches, Branches)
        assert len(branches) == 4
        assert take_step(task)["ofa_1"] != take_step(task)["ofa_2"]


def test_a_patch_merger_joins_four_neighbours():
    merger = PatchMerger(1, 4)
    merger.norm, merger.reduce = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
    grid = torch.arange(16.0).reshape(1, 4, 4, 1)
    assert set(merger(grid)[0, 0, 1].tolist()) == {2, 3, 6, 7}
    assert set(merger(grid)[0, 1, 0].tolist()) == {8, 9, 12, 13}


def test_mergers_stop_at_a_grid_of_seven():
    def widths(side):
        branch = TokenBranch(StageShape(6, side, side, 0, True), 1, width=16, classes=CLASSES)
        assert branch(Stage(torch.randn(2, 6, side, side), None)).shape == (2, CLASSES)
        return [m.reduce.in_features for m in branch.mergers if isinstance(m, PatchMerger)]

    assert widths(56) == [24, 64, 64]
    assert widths(28) == [24, 64]
    assert widths(14) == [24]
    assert widths(7) == []
    assert widths(4) == []  # smaller images than the paper's


def test_a_branch_reads_the_class_token():
    branch = TokenBranch(StageShape(16, 14, 14, 1, True), 4, width=16, classes=CLASSES)
    branch.blocks = torch.nn.Sequential()
    prefix = torch.randn(2, 1, 16)
    assert torch.allclose(branch(Stage(torch.randn(2, 16, 14, 14), prefix)), branch.head(prefix[:, 0]))


def test_an_unknown_image_size_is_refused():
    with pytest.raises(ValueError, match="give image_shape"):
        OFADistiller(vit(), Setting(teacher_width=20))
    assert OFADistiller(vit(), Setting(teacher_width=20, image_shape=SHAPE)).extra_parameters > 0


def textbook_ofa(student, teacher, target, eps, temperature):
    total = 0
    for s, t, y in zip(student, teacher, target, strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        for c in range(len(p)):
            weight = (p[c] + 1) ** eps - 1 if c == y else p[c] ** eps
            total = total - weight * q[c].log()
    return total / len(student)


def test_equals_the_papers_formula():
    assert_equal(lambda s, t: ofa_loss(s, t, TARGET), lambda s, t: textbook_ofa(s, t, TARGET, 1.0, 1.0))
    assert_equal(
        lambda s, t: ofa_loss(s, t, TARGET, eps=1.5, temperature=2.0),
        lambda s, t: textbook_ofa(s, t, TARGET, 1.5, 2.0),
    )


def test_at_eps_1_it_is_kd_plus_entropy():
    student, teacher = pair(6, 7)
    p = teacher.softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    assert ofa_loss(student, teacher, TARGET).item() == pytest.approx((kd_loss(student, teacher) + entropy).item())


def test_finite_where_the_teacher_is_certain():
    student, teacher = pair(6, 7, torch.float32)
    teacher[torch.arange(6), TARGET] += 200
    assert torch.isfinite(ofa_loss(student, teacher, TARGET, eps=1.5))
