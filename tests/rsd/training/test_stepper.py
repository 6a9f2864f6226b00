"""A step is that of the recipe, whatever it is computed in, and in however many parts."""

import shutil

import numpy as np
import pytest
import torch

from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.methods import distiller, methods
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.training.recipe import Recipe, make_criterion
from rsd.training.stepper import Stepper
from tests.rsd.methods.tiny import BATCH, CLASSES, IMAGES, SHAPE, cnn, target, task_of, teacher_outputs, vit

TAUGHT = sorted(set(methods()) - {"scratch"})
RAW = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
SOFT = torch.softmax(torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(5)), dim=1)


def recipe(**changes):
    fixed = {"epochs": 10, "batch_size": BATCH, "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9}
    return Recipe.model_validate(fixed | changes)


class Normalize(PixelNormalize):
    def forward(self, image):
        return super().forward(image).to(self.mean.dtype)


def stepper(task, changes=None, compute=None):
    def teacher(raw, index, view):
        outputs = teacher_outputs()
        return Outputs(outputs.embedding[index].to(task.dtype), outputs.logits[index].to(task.dtype))

    chosen = recipe(**(changes or {}))
    task.criterion = make_criterion(chosen)
    return Stepper(
        task.train(), chosen, ComputeOptions.model_validate(compute or {}),
        normalize=Normalize([0.5], [0.25]).to(task.dtype), teacher=teacher if task.needs else None, steps_per_epoch=5,
    )  # fmt: skip


def take_step(steps, count, goal=None):
    terms = [
        steps.step(RAW, target() if goal is None else goal, np.arange(BATCH), np.arange(BATCH), number=n)
        for n in range(count)
    ]
    return terms[-1], {name: p.detach().clone() for name, p in steps.task.trainable_module.named_parameters()}


UNCOUPLED = ("scratch", "kd", "dkd", "ofa")


@pytest.mark.parametrize("method", UNCOUPLED)
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_parts_make_the_whole_batchs_step(method, loss):
    results = {}
    for parts in (1, 3):
        task = task_of(distiller(method), vit(class_token=False, global_pool="avg")).double()
        options = {"accumulation": parts, "loss": loss, "label_smoothing": 0.1, "clip_gradient": 0.1}
        results[parts] = take_step(stepper(task, options), 4, SOFT.double())
    for a, b in zip(results[1], results[3], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[key], b[key], rtol=1e-9, atol=1e-12) for key in a)


@pytest.mark.parametrize("method", sorted(set(TAUGHT) - set(UNCOUPLED) - {"fitnet"}))
def test_a_method_that_compares_images_refuses_parts(method):
    with pytest.raises(UserError, match=f"expected 1 with method '{method}'.*found 3; set it to 1"):
        stepper(task_of(distiller(method)), {"accumulation": 3})


def test_ofa_refuses_parts_with_rsds_loss_only():
    with pytest.raises(UserError, match="method 'ofa'"):
        stepper(task_of(distiller("ofa"), loss="rsd"), {"accumulation": 3})


@pytest.mark.parametrize(("batch_size", "accumulation"), [(12, 5), (12, 12), (3, 2)])
def test_an_uneven_batch_is_refused_with_the_figures(batch_size, accumulation):
    with pytest.raises(UserError, match=f"1 x {accumulation} = {accumulation}.*found {batch_size}"):
        stepper(task_of(distiller("kd")), {"batch_size": batch_size, "accumulation": accumulation})


def test_bce_sums_each_classs_loss():
    logits, labels = torch.randn(6, CLASSES), torch.arange(6) % CLASSES
    criterion = make_criterion(recipe(loss="bce", label_smoothing=0.2))
    target = torch.full((6, CLASSES), 0.2 / CLASSES)
    target[torch.arange(6), labels] += 0.8
    each = -(target * logits.sigmoid().log() + (1 - target) * (1 - logits.sigmoid()).log())
    assert criterion(logits, labels).item() == pytest.approx(each.sum(1).mean().item(), rel=1e-5)
    hard = torch.nn.functional.one_hot(labels, CLASSES).float()
    assert torch.equal(criterion(logits, hard), criterion(logits, labels))


@pytest.mark.parametrize("method", sorted(set(methods()) - {"fitnet"}))  # which this test's teacher has no stages for
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_takes_about_the_same_step(method, amp):
    terms = {}
    for precision in ("none", amp):
        torch.manual_seed(0)
        steps = stepper(task_of(distiller(method)), {"learning_rate": 1e-3}, {"amp": precision})
        terms[precision], _ = take_step(steps, 1)
        assert all(p.dtype == torch.float32 for p in steps.task.trainable_module.parameters())
    assert terms[amp]["loss"].dtype == torch.float32
    assert terms[amp]["loss"].item() == pytest.approx(terms["none"]["loss"].item(), rel=0.05)
    assert set(terms[amp]) - set(terms["none"]) == ({"skipped_steps"} if amp == "fp16" else set())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_skipped_first_step_leaves_no_trace(optimizer):
    """Not in the momentum either."""
    weights = []
    for first in (2.0**60, 2.0**10):
        changes = {"optimizer": optimizer, "learning_rate": 1e-3, "schedule": "step"}  # the same rate at each step
        steps = stepper(task_of(distiller("kd")), changes, {"amp": "fp16"})
        if first > 2.0**16:
            steps.scaler.load_state_dict(steps.scaler.state_dict() | {"scale": first})
            assert take_step(steps, 1)[0]["skipped_steps"] == 1
        steps.scaler.load_state_dict(steps.scaler.state_dict() | {"scale": 2.0**10})
        weights.append(take_step(steps, 1)[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_gradient_beyond_fp16_skips_the_step():
    steps = stepper(task_of(distiller("kd")), None, {"amp": "fp16"})
    steps.scaler.load_state_dict(steps.scaler.state_dict() | {"scale": 2.0**40})
    before = {name: p.detach().clone() for name, p in steps.task.trainable_module.named_parameters()}
    terms, after = take_step(steps, 1)
    assert terms["skipped_steps"] == 1
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert steps.scaler.get_scale() == 2.0**39


def test_fp16_that_never_becomes_finite_stops():
    steps = stepper(task_of(distiller("kd")), None, {"amp": "fp16"})
    steps.scaler.load_state_dict(steps.scaler.state_dict() | {"scale": 0.5})
    next(steps.task.trainable_module.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match="finite gradient norm.*set compute.amp to none or bf16"):
        take_step(steps, 1)


@pytest.mark.parametrize(("amp", "hinted"), [("bf16", True), ("none", False)])
def test_a_nan_gradient_hints_at_mixed_precision(amp, hinted):
    steps = stepper(task_of(distiller("kd")), None, {"amp": amp})
    next(steps.task.trainable_module.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match="finite gradient norm") as caught:
        take_step(steps, 1)
    assert ("set compute.amp to none" in str(caught.value)) == hinted


def test_bf16_refuses_the_convolution_with_wrong_gradients():
    student = cnn()
    take_step(stepper(task_of(distiller("kd"), student), None, {"amp": "bf16"}), 1)
    student.conv1.stride = (4, 4)  # so that the last stage gets maps of one pixel
    take_step(stepper(task_of(distiller("kd"), student), None, {}), 1)
    with pytest.raises(UserError, match="wider than one pixel.*stride=.2, 2.*set compute.amp to none"):
        take_step(stepper(task_of(distiller("kd"), student), None, {"amp": "bf16"}), 1)


def test_channels_last_changes_the_layout_only():
    plain, laid_out = (stepper(task_of(distiller("rsd"), cnn()), None, {"channels_last": on}) for on in (False, True))
    weights = laid_out.task.get_eval_model().conv1.weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(take_step(plain, 2), take_step(laid_out, 2), strict=True):
        assert all(torch.allclose(a[key], b[key], rtol=1e-3, atol=1e-4) for key in a)


def test_the_average_of_the_weights_follows_them():
    steps = stepper(task_of(distiller("rsd")), {"ema_decay": 0.75})
    expected: dict[str, torch.Tensor] = {}
    for number in range(3):
        steps.step(RAW, target(), np.arange(BATCH), np.arange(BATCH), number=number)
        now = {key: value.clone() for key, value in steps.task.get_eval_model().state_dict().items()}
        expected = {key: 0.75 * expected[key] + 0.25 * now[key] if number else now[key] for key in now}
    average = steps.task.get_eval_model(ema=True).state_dict()
    assert average.keys() == vit().state_dict().keys()
    assert all(torch.allclose(average[key], expected[key], atol=1e-6) for key in expected)
    assert steps.task.get_task_state(ema=True)["projection"].keys() == steps.task.get_task_state()["projection"].keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_step_is_the_plain_one():
    plain, compiled = (stepper(task_of(distiller("rsd"), vit(depth=1)), None, {"compile": on}) for on in (False, True))
    for a, b in zip(take_step(plain, 1), take_step(compiled, 1), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[key], b[key], rtol=1e-3, atol=1e-4) for key in a)
    assert compiled.task.get_eval_model().state_dict().keys() == vit(depth=1).state_dict().keys()


def test_every_part_knows_its_images_numbers():
    """Each part looks up its own images: the index of part two is not that of part one."""
    requests = []
    steps = stepper(task_of(distiller("kd")), {"accumulation": 2})
    real = steps.teacher

    def spy(raw, index, view):
        requests.append((raw, index))
        return real(raw, index, view)

    steps.teacher = spy
    take_step(steps, 1)
    assert np.array_equal(np.concatenate([index for _, index in requests]), np.arange(BATCH))
    assert torch.equal(torch.cat([raw for raw, _ in requests]), RAW)
    assert BATCH < IMAGES
