"""A sum of methods: the terms of each part, as each would give them alone."""

import json

import pytest
import torch

from rsd.config.resolve import resolve
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.methods import distiller
from rsd.methods.base import Setting
from rsd.models.features import stage_shapes
from rsd.models.outputs import outputs
from tests.rsd.methods.test_own import ROOT
from tests.rsd.methods.tiny import IMAGES, SHAPE, cnn, take_step, task_of, teacher_outputs, vit

SUMS = ["rsd+kd", "kd+rsd", "rsd+ofa+crd", "fitnet+dist", "cc+rkd+dkd"]


def alone(name: str, whole) -> dict[str, torch.Tensor]:
    """The step of one part of a sum, with the sum's own student and the same scaffold."""
    part = task_of(distiller(name), vit())
    part.get_eval_model().load_state_dict(whole.get_eval_model().state_dict())
    prefix = f"projection.{name}."
    part.load_scaffold(
        {f"projection.{key.removeprefix(prefix)}": t for key, t in whole.scaffold_state().items() if prefix in key}
    )
    torch.manual_seed(3)
    return take_step(part)


@pytest.mark.parametrize("name", [name for name in SUMS if "crd" not in name])
def test_a_sum_adds_its_parts_terms_once(name):
    whole = task_of(distiller(name))
    parts = [alone(part, whole) for part in name.split("+")]
    torch.manual_seed(3)
    result = take_step(whole)
    extra = torch.stack([part["loss"] - part["cross_entropy"] for part in parts]).sum()
    assert (result["loss"] - result["cross_entropy"]).item() == pytest.approx(extra.item(), rel=1e-5)
    assert {key for part in parts for key in part} <= set(result)


@pytest.mark.parametrize("name", SUMS)
def test_gradients_reach_every_scaffold(name):
    task = task_of(distiller(name))
    take_step(task)["loss"].backward()
    assert all(p.grad is not None for p in task.trainable_module.parameters())
    own = sum(task_of(distiller(part)).extra_parameters for part in name.split("+"))
    assert task.extra_parameters == own


@pytest.mark.parametrize("name", SUMS)
def test_a_checkpoint_of_a_sum_restores_the_step(name):
    first, second = task_of(distiller(name)), task_of(distiller(name))
    take_step(first)
    state = first.get_checkpoint_state()
    assert set(state["state_dict"]) == set(vit().state_dict())
    second.load_checkpoint_state(state["state_dict"], state.get("task_state"))
    results = []
    for task in (first, second):
        torch.manual_seed(7)
        results.append(take_step(task)["loss"])
    assert torch.equal(*results)


def test_parts_keep_their_options_and_needs():
    kind = distiller("rsd+kd")
    options = kind.Options.model_validate({"rsd": {"weight": 0.0}, "kd": {"weight": 0.5, "temperature": 4.0}})
    task = kind(vit(), setting(), options)
    only_kd = task_of(distiller("kd"), vit(), weight=0.5, temperature=4.0)
    assert take_step(task)["loss"].item() == pytest.approx(take_step(only_kd)["loss"].item(), rel=1e-5)
    assert kind.needs == {"embedding", "logits"}
    assert kind.couples_batch(kind.Options())
    assert not distiller("kd+dkd").couples_batch(distiller("kd+dkd").Options())
    with pytest.raises(UserError, match=r"live teacher for method 'fitnet\+dist'"):
        distiller("fitnet+dist").check_views(30)


def setting() -> Setting:
    return Setting(teacher_width=20, teacher_stages=stage_shapes(cnn(), SHAPE), image_shape=SHAPE, image_count=IMAGES)


@torch.no_grad()
def test_a_sums_picture_and_advice_are_its_parts():
    task = task_of(distiller("kd+rsd")).eval()
    own = outputs(task.get_eval_model(), torch.randn(8, 1, 32, 32))
    side = task.student_side(own)
    assert side is not None
    assert side.shape == (8, 20)
    assert "RSD draws the diagonal" in task.inside(side, side, outputs(cnn(), torch.randn(8, 1, 32, 32))).caption
    assert task_of(distiller("kd+dkd")).student_side(own) is None
    kind = distiller("kd+rsd")
    strong = kind(vit(), setting(), kind.Options.model_validate({"rsd": {"weight": 50.0}}))
    assert len(strong.advice(batch_size=12, classes=5)) == 1


def params_with(folder, **changes):
    params = read_yaml(ROOT / "params.yaml")
    (folder / "params.yaml").write_text(json.dumps(params | changes))
    return resolve(folder / "params.yaml", ROOT / "conf")


def test_a_sums_params_are_its_parts_sections(tmp_path):
    choice = {"methods": ["scratch", "rsd+kd"], "export": {"method": "rsd+kd"}}
    resolved = params_with(tmp_path, **choice, method={"kd": {"weight": 3}})
    assert resolved["method"]["rsd+kd"] == {part: resolved["method"][part] for part in ("rsd", "kd")}
    assert resolved["method"]["rsd+kd"]["kd"]["weight"] == 3
    assert resolved["run"]["ships"] == "rsd+kd"
    paper = params_with(tmp_path, **choice, method={}, protocol="paper")
    assert paper["method"]["rsd+kd"]["rsd"]["correlation"] == "per_process"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rsd+rsd", "expected each method of a sum once, found 'rsd+rsd'"),
        ("rsd+scratch", "expected methods that add a term to the loss, found 'rsd+scratch'; write 'rsd'"),
        ("rsd+kdd", "found 'rsd+kdd'; did you mean kd?"),
        ("rsd+", "found 'rsd+'"),
        ("fitnet+kd", "views.count: expected a live teacher for method 'fitnet+kd'"),
    ],
)
def test_a_faulty_sum_is_one_sentence(tmp_path, name, sentence):
    with pytest.raises(UserError) as refused:
        params_with(tmp_path, methods=["scratch", name], export={"method": name}, method={})
    assert str(refused.value).startswith("1 to correct")
    assert sentence in str(refused.value)


def test_the_same_sum_in_another_order_is_refused(tmp_path):
    with pytest.raises(UserError) as refused:
        params_with(tmp_path, methods=["scratch", "rsd+kd", "kd+rsd"], export={"method": "rsd+kd"}, method={})
    assert str(refused.value).startswith("1 to correct")
    assert "found 'rsd+kd' and 'kd+rsd', which have the same parts; keep one of them" in str(refused.value)


def test_a_step_needs_outputs_of_the_teacher():
    assert take_step(task_of(distiller("rsd+kd")), teacher=teacher_outputs())["loss"].ndim == 0
