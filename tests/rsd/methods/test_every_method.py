"""What is true of every method that has a teacher."""

import pytest
import torch
from torch import nn

from rsd.machine.errors import UserError
from rsd.methods import distiller, methods
from rsd.methods.base import Distiller
from rsd.models.outputs import Outputs, outputs
from tests.rsd.methods.tiny import BATCH, CLASSES, cnn, images, take_step, target, task_of, teacher_outputs, vit

TAUGHT = sorted(set(methods()) - {"scratch"})


def test_the_methods_are_the_papers_and_scratch():
    assert set(methods()) == {"scratch", "kd", "dkd", "dist", "rkd", "cc", "crd", "fitnet", "ofa", "rsd"}
    assert all(distiller(name).method == name for name in methods())


@pytest.mark.parametrize("method", TAUGHT)
@pytest.mark.parametrize("student", [vit, cnn])
def test_one_step_lowers_the_loss(method, student):
    task = task_of(distiller(method), student())
    optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=1e-3)
    buffers = {name: buffer.clone() for name, buffer in task.trainable_module.named_buffers()}
    torch.manual_seed(5)
    before = take_step(task)
    before["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in task.trainable_module.parameters())
    assert before["loss"] > before["cross_entropy"]
    assert all(value.ndim == 0 for key, value in before.items() if key != "output")
    optimizer.step()
    task.trainable_module.load_state_dict(buffers, strict=False)  # a memory bank has moved, too
    torch.manual_seed(5)
    assert take_step(task)["loss"] < before["loss"]


@pytest.mark.parametrize("method", TAUGHT)
def test_without_weights_a_method_is_plain_cross_entropy(method):
    weights = {name: 0.0 for name in distiller(method).Options.model_fields if name.endswith("weight")}
    weights = {name: 0.0 for name in weights if method != "rkd" or name == "weight"}
    task = task_of(distiller(method), **weights).eval()
    expected = nn.functional.cross_entropy(task.get_eval_model()(images()), target())
    assert take_step(task)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("method", TAUGHT)
def test_the_scaffold_is_task_state_and_counted(method):
    task = task_of(distiller(method))
    assert set(task.get_checkpoint_state()["state_dict"]) == set(vit().state_dict())
    everything = sum(p.numel() for p in task.trainable_module.parameters())
    assert task.extra_parameters == everything - sum(p.numel() for p in vit().parameters())
    assert (task.extra_parameters > 0) == (method in ("cc", "crd", "fitnet", "ofa", "rsd"))


@pytest.mark.parametrize("method", TAUGHT)
def test_a_checkpoint_restores_the_next_step(method):
    first, second = task_of(distiller(method)), task_of(distiller(method))
    take_step(first)  # a memory bank remembers, batch norm counts
    state = first.get_checkpoint_state()
    second.load_checkpoint_state(state["state_dict"], state.get("task_state"))
    results = []
    for task in (first, second):
        torch.manual_seed(7)
        results.append(take_step(task)["loss"])
    assert torch.equal(*results)


@pytest.mark.parametrize("method", TAUGHT)
def test_targets_may_be_probabilities(method):
    mixed = 0.7 * nn.functional.one_hot(target(), CLASSES) + 0.3 / CLASSES
    result = take_step(task_of(distiller(method)), target=mixed)
    assert torch.isfinite(result["loss"])
    torch.manual_seed(0)
    plain = take_step(task_of(distiller(method)))
    torch.manual_seed(0)
    again = take_step(task_of(distiller(method)), target=nn.functional.one_hot(target(), CLASSES).float())
    assert again["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-5)


@pytest.mark.parametrize("method", sorted(set(TAUGHT) - {"fitnet"}))
def test_stored_fp16_outputs_serve_every_method_but_fitnet(method):
    distiller(method).check_views(30)
    stored = Outputs(teacher_outputs().embedding.half(), teacher_outputs().logits.half())
    result = take_step(task_of(distiller(method)), teacher=stored)
    assert torch.isfinite(result["loss"])
    result["loss"].backward()


@pytest.mark.parametrize("method", TAUGHT)
def test_a_method_without_a_teacher_is_refused(method):
    with pytest.raises(ValueError, match="needs the teacher's"):
        distiller(method)(vit())
    with pytest.raises(ValueError, match="no outputs of the teacher"):
        take_step(task_of(distiller(method)), teacher=None)


def test_a_staged_student_gives_the_same_logits():
    task = task_of(distiller("ofa")).eval()
    assert torch.equal(take_step(task)["output"], outputs(task.get_eval_model(), images()).logits)


def test_kd_adds_the_weighted_loss_of_the_logits():
    task = task_of(distiller("kd"), weight=0.3, temperature=4.0).eval()
    result = take_step(task)
    p, q = (teacher_outputs().logits / 4).softmax(1), (result["output"] / 4).softmax(1)
    expected = 0.3 * 16 * (p * (p / q).log()).sum() / BATCH
    assert (result["loss"] - result["cross_entropy"]).item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_own_method_takes_ten_lines():
    class Mine(Distiller, method="mine"):
        needs = frozenset({"logits"})

        def distillation_terms(self, step):
            loss = (step.student.logits - step.teacher.logits).square().mean()
            return 0.5 * loss, {"mine": loss}

    result = take_step(task_of(Mine).eval())
    assert (result["loss"] - result["cross_entropy"]).item() == pytest.approx(0.5 * result["mine"].item(), rel=1e-4)
    del Distiller.registry["mine"]


def test_fitnet_refuses_a_view_store():
    with pytest.raises(UserError, match="expected a live teacher for method 'fitnet'.*set views.count to 0"):
        distiller("fitnet").check_views(30)
    distiller("fitnet").check_views(0)


@pytest.mark.parametrize("method", TAUGHT)
def test_an_image_without_label_has_the_teachers_first(method):
    """Cross-entropy over the labelled images, the method's terms over all, with the teacher's class where one lacks."""
    known = 5
    hidden = torch.where(torch.arange(BATCH) < known, target(), -1)
    filled = torch.where(torch.arange(BATCH) < known, target(), teacher_outputs().logits.argmax(dim=1))
    torch.manual_seed(3)
    result = take_step(task_of(distiller(method)).eval(), target=hidden, labelled=known)
    torch.manual_seed(3)
    whole = take_step(task_of(distiller(method)).eval(), target=filled)
    expected = nn.functional.cross_entropy(whole["output"][:known].double(), target()[:known])
    assert result["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    extra = whole["loss"] - whole["cross_entropy"]
    assert (result["loss"] - result["cross_entropy"]).item() == pytest.approx(extra.item(), rel=1e-4)
