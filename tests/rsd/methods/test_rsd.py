import re

import pytest
import timm
import torch
from torch import nn

from rsd.machine.errors import UserError
from rsd.methods import distiller, methods
from rsd.methods.base import Setting
from rsd.methods.rsd import AAD, RSDDistiller, RSDOptions, rsd_loss
from rsd.methods.scratch import ScratchDistiller
from rsd.models.outputs import Outputs, outputs

BATCH, CLASSES, TEACHER_WIDTH = 12, 5, 20


def student():
    torch.manual_seed(1)
    return timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2,
                             in_chans=1, num_classes=CLASSES)  # fmt: skip


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(BATCH, 1, 16, 16, generator=generator),
        torch.arange(BATCH) % CLASSES,
        Outputs(torch.randn(BATCH, TEACHER_WIDTH, generator=generator), torch.randn(BATCH, CLASSES)),
    )


def test_the_loss_is_cross_entropy_plus_weighted_rsd(batch):
    images, target, teacher = batch
    task = RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH), RSDOptions(weight=0.3, kappa=0.05)).eval()
    result = task(images, target, teacher)
    model = task.get_eval_model()
    embedding = outputs(model, images).embedding
    mapped = task.trainable_module.get_submodule("projection.aads.embedding")(embedding)
    expected = nn.functional.cross_entropy(model(images), target) + 0.3 * rsd_loss(
        mapped, teacher.embedding, kappa=0.05
    )
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_aad_weights_are_never_the_students(batch):
    task = RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH))
    names = set(task.get_eval_model().state_dict())
    assert names == set(student().state_dict())
    assert set(task.get_checkpoint_state()["state_dict"]) == names
    aad = task.get_task_state()["projection"]
    assert {tuple(aad[f"aads.embedding.{layer}.weight"].shape) for layer in (0, 3)} == {(32, 16), (20, 32)}


def test_checkpoint_state_round_trip_restores_student_and_aad(batch):
    images, target, teacher = batch
    first = RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH))
    second = RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH))
    state = first.get_checkpoint_state()
    second.load_checkpoint_state(state["state_dict"], state["task_state"])
    assert torch.equal(first.eval()(images, target, teacher)["loss"], second.eval()(images, target, teacher)["loss"])


def test_gradients_reach_student_and_aad_only(batch):
    images, target, teacher = batch
    task = RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH))
    task(images, target, teacher)["loss"].backward()
    assert all(p.grad is not None for p in task.trainable_module.parameters())
    assert teacher.embedding.grad is None


def test_the_log_tells_a_healthy_correlation_from_chance(batch):
    images, target, teacher = batch
    log = RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH))(images, target, teacher)
    assert log["off_diagonal_chance"].item() == pytest.approx(BATCH**-0.5)
    assert -1 <= log["diagonal_mean"].item() <= 1
    assert log["off_diagonal_rms"].item() ** 2 * TEACHER_WIDTH * (TEACHER_WIDTH - 1) == pytest.approx(
        log["redundancy"].item(), rel=1e-5
    )


def test_what_is_only_logged_can_be_left_out(batch):
    images, target, teacher = batch
    task = RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH)).eval()
    whole, bare = (task(images, target, teacher, logged=logged) for logged in (True, False))
    assert {*whole} - {*bare} == {"diagonal_mean", "off_diagonal_rms", "off_diagonal_chance"}
    assert torch.equal(whole["loss"], bare["loss"])


def test_extra_parameters_are_those_of_the_aad_alone():
    assert RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH)).extra_parameters == 16 * 32 + 64 + 32 * 20
    assert ScratchDistiller(student()).extra_parameters == 0


def test_scratch_is_plain_cross_entropy(batch):
    images, target, _ = batch
    task = ScratchDistiller(student()).eval()
    expected = nn.functional.cross_entropy(task.get_eval_model()(images), target)
    assert task(images, target)["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_method_without_what_it_needs_is_refused(batch):
    images, target, _ = batch
    with pytest.raises(ValueError, match="needs the teacher's embedding"):
        RSDDistiller(student())
    with pytest.raises(ValueError, match="no outputs of the teacher"):
        RSDDistiller(student(), Setting(teacher_width=TEACHER_WIDTH))(images, target)


def test_methods_are_named_after_their_files():
    assert {"scratch", "rsd"} <= set(methods())
    assert distiller("rsd") is RSDDistiller
    with pytest.raises(UserError, match="expected a method out of .*rsd.*, found 'rds'"):
        distiller("rds")


def log_of(batch, *, width=TEACHER_WIDTH, **options):
    images, target, teacher = batch
    task = RSDDistiller(student(), Setting(teacher_width=width), RSDOptions(**options)).eval()
    return task, task(images, target, teacher._replace(embedding=teacher.embedding[:, :width]))


def added(result):
    return (result["loss"] - result["cross_entropy"]).item()


def test_without_kappa_only_the_invariance_is_minimised(batch):
    _, result = log_of(batch, kappa=0, weight=0.3)
    assert added(result) == pytest.approx(0.3 * result["invariance"].item(), rel=1e-5)
    assert result["redundancy"] > 0  # still logged


def test_logits_have_no_aad_by_default(batch):
    task, result = log_of(batch, space="logits")
    assert task.extra_parameters == 0
    assert added(result) == pytest.approx(0.1 * rsd_loss(result["output"], batch[2].logits).item(), rel=1e-5)
    task, _ = log_of(batch, space="logits", aad="logits")
    assert task.extra_parameters == CLASSES * 2 * CLASSES + 4 * CLASSES + 2 * CLASSES * CLASSES


def test_both_spaces_add_up_and_are_logged_apart(batch):
    _, both = log_of(batch, space="both")
    _, of_embedding = log_of(batch)
    _, of_logits = log_of(batch, space="logits")
    assert added(both) == pytest.approx(added(of_embedding) + added(of_logits), rel=1e-4)
    assert both["invariance"].item() == pytest.approx(of_embedding["invariance"].item(), rel=1e-5)
    assert both["logits_invariance"].item() == pytest.approx(of_logits["invariance"].item(), rel=1e-5)


def test_without_an_aad_equal_widths_are_compared(batch):
    task, result = log_of(batch, width=16, aad="none")
    assert task.extra_parameters == 0
    own = outputs(task.get_eval_model(), batch[0]).embedding
    assert added(result) == pytest.approx(0.1 * rsd_loss(own, batch[2].embedding[:, :16]).item(), rel=1e-5)
    assert task.get_checkpoint_state().get("task_state", {}) == {"projection": {}}


def test_without_an_aad_other_widths_are_refused(batch):
    with pytest.raises(UserError, match="expected a student as wide as its teacher.*found 16 and 20; set method.rsd"):
        log_of(batch, aad="none")
    log_of(batch, aad="none", space="logits")


def test_gamma_widens_the_aad_a_cap_limits_it(batch):
    def hidden(**options):
        return log_of(batch, **options)[0].get_task_state()["projection"]["aads.embedding.0.weight"].shape[0]

    assert hidden() == 32
    assert hidden(gamma=4) == 64
    assert hidden(gamma=4, max_hidden=40) == 40
    assert hidden(gamma=1.5, max_hidden=40) == 24


def test_a_reference_width_scales_both_sums(batch):
    _, plain = log_of(batch, kappa=0.2)
    _, same = log_of(batch, kappa=0.2, reference_width=TEACHER_WIDTH)
    assert added(same) == pytest.approx(added(plain), rel=1e-6)
    _, wide = log_of(batch, kappa=0.2, reference_width=60)
    expected = 3 * plain["invariance"] + 0.2 * 60 * 59 / (20 * 19) * plain["redundancy"]
    assert added(wide) == pytest.approx(0.1 * expected.item(), rel=1e-5)
    assert wide["invariance"] == plain["invariance"]  # the log shows the sums as they are


def test_one_process_correlates_globally_either_way(batch):
    _, everywhere = log_of(batch, correlation="global")
    _, here = log_of(batch, correlation="per_process")
    assert torch.equal(everywhere["loss"], here["loss"])


def advice(width, batch, **options):
    task = RSDDistiller(student(), Setting(teacher_width=width), RSDOptions(**options))
    return task.advice(batch_size=batch, classes=100)


@pytest.mark.parametrize(("width", "batch"), [(768, 128), (384, 128), (2048, 64), (64, 64)])
def test_the_settings_of_the_paper_give_no_warning(width, batch):
    assert advice(width, batch) == []


@pytest.mark.parametrize(("width", "batch"), [(4096, 128), (2048, 16)])
def test_too_strong_a_weight_gives_a_usable_warning(width, batch):
    (sentence,) = advice(width, batch)
    for figure in (f"{width:,} wide", f"{batch} images", "cross-entropy of 4.6", "method.rsd.weight 0.1"):
        assert figure in sentence
    proposed = float(re.search(r"set it to about ([\d.]+),", sentence)[1])  # type: ignore[index]
    assert 0 < proposed < 0.1
    assert advice(width, batch, weight=proposed) == []
    assert advice(width, batch, reference_width=768) == []


@pytest.mark.parametrize(("width", "batch"), [(64, 64), (384, 32), (768, 16)])
def test_the_pull_is_about_the_gradients_ratio(width, batch):
    torch.manual_seed(0)
    task = RSDDistiller(student(), Setting(teacher_width=width))
    embedding = torch.randn(batch, 16, requires_grad=True)
    aad = task.trainable_module.get_submodule("projection.aads.embedding")
    loss = 0.1 * rsd_loss(aad(embedding), torch.randn(batch, width))
    plain = nn.functional.cross_entropy(nn.Linear(16, 100)(embedding), torch.arange(batch) % 100)
    of_rsd, of_plain = (torch.autograd.grad(value, embedding)[0].norm() for value in (loss, plain))
    assert 0.5 < task.pull(width, batch) / float(of_rsd / of_plain) < 2


def test_the_aad_maps_to_the_teachers_width():
    assert AAD(6, 10, gamma=2.0)(torch.randn(4, 6)).shape == (4, 10)


def test_the_aad_has_two_linears_and_a_norm():
    aad = AAD(6, 10, gamma=2.0)
    # 6*12 + (12 + 12 of the norm) + 12*10
    assert sum(p.numel() for p in aad.parameters()) == 6 * 12 + 24 + 12 * 10


def test_the_aad_keeps_nothing_of_earlier_batches():
    aad, batch = AAD(6, 10), torch.randn(5, 6)
    before = aad(batch)
    aad(torch.randn(5, 6) + 3)
    assert torch.equal(aad.eval()(batch), before)


def test_the_aads_weights_start_at_deviation_002():
    aad = AAD(64, 512, gamma=2.0)
    assert abs(aad.get_parameter("3.weight").std().item() - 0.02) < 0.001


def test_extra_parameters_of_published_pairs():
    """Millions, from the paper's pairs: student width -> teacher width at gamma 2."""
    for student, teacher, millions in [(512, 768, "1.31"), (1280, 768, "5.25"), (384, 768, "0.89"), (192, 768, "0.37")]:
        assert f"{sum(p.numel() for p in AAD(student, teacher).parameters()) / 1e6:.2f}" == millions
    assert f"{sum(p.numel() for p in AAD(512, 768, gamma=4).parameters()) / 1e6:.2f}" == "2.63"


def test_a_cap_limits_the_hidden_width():
    assert AAD(6, 10, gamma=2.0, max_hidden=8).get_parameter("0.weight").shape == (8, 6)
    assert AAD(6, 10, gamma=2.0, max_hidden=99).get_parameter("0.weight").shape == (12, 6)
