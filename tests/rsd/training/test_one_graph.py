"""A step as one graph: what is around the graph, with a stand-in that runs the step's own code at each replay."""

import numpy as np
import pytest
import torch

from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.methods import distiller, methods
from rsd.training import one_graph, stepper
from rsd.training.one_graph import obstacle
from tests.rsd.methods.tiny import BATCH, task_of
from tests.rsd.training.test_stepper import RAW, recipe
from tests.rsd.training.test_stepper import stepper as make

STEPS = 14
"""Two epochs and more of the five steps that `make` has in each: some are logged, and the learning rate changes."""


def steps_of(method, *, cuda_graph, optimizer="sgd"):
    """The scalars of each step, and the weights after the last."""
    torch.manual_seed(0)
    changes = {"optimizer": optimizer, "learning_rate": 1e-3, "warmup_epochs": 1, "clip_gradient": 1.0}
    steps = make(task_of(distiller(method)), changes, {"cuda_graph": cuda_graph})
    terms = []
    for number in range(STEPS):
        order = np.random.default_rng(number).permutation(BATCH)
        target = torch.from_numpy(order) % 3
        terms.append(steps.step(RAW[torch.from_numpy(order)], target, order, order, number=number))
    return terms, {name: p.detach().clone() for name, p in steps.task.trainable_module.named_parameters()}


@pytest.fixture
def recordings(monkeypatch):
    """How many graphs were recorded; each replays by running the code again."""
    bodies = []

    def record(body, pool):
        bodies.append(body)
        return body

    monkeypatch.setattr(one_graph, "record", record)
    monkeypatch.setattr(stepper, "obstacle", lambda *arguments, **options: None)
    return bodies


@pytest.mark.parametrize("method", sorted({*methods(), "rsd+kd"} - {"fitnet"}))
def test_a_graphs_steps_are_those_of_kernels(recordings, method):
    """Up to the rounding of the learning rate, which a graph reads as float32."""
    (graph, weights), (kernels, expected) = (steps_of(method, cuda_graph=on) for on in (True, False))
    assert len(recordings) == 2  # with and without what is only logged
    for ours, theirs in zip(graph, kernels, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[key], theirs[key], rtol=1e-3, atol=1e-5) for key in ours)
    assert all(torch.allclose(weights[name], expected[name], rtol=1e-3, atol=1e-4) for name in expected)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_the_first_replay_changes_no_bit(recordings, monkeypatch, optimizer):
    """A resumed run starts with kernels again."""
    _, weights = steps_of("rsd", cuda_graph=True, optimizer=optimizer)
    monkeypatch.setattr(one_graph, "WARM_UP", STEPS - 2)
    _, expected = steps_of("rsd", cuda_graph=True, optimizer=optimizer)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_step_that_cannot_be_recorded_ends(monkeypatch):
    def record(body, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(stepper, "obstacle", lambda *arguments, **options: None)
    monkeypatch.setattr(one_graph, "record", record)
    sentence = (
        "found one that it cannot .operation not permitted when stream is capturing more.; set compute.cuda_graph"
    )
    with pytest.raises(UserError, match=sentence):
        steps_of("rsd", cuda_graph=True)


def test_without_a_gpu_a_sentence_says_so(capsys):
    make(task_of(distiller("rsd")), None, {"cuda_graph": True})
    assert "expected steps that can be one CUDA graph (compute.cuda_graph), found no CUDA" in capsys.readouterr().err


class OnGpu:
    """A task as far as `obstacle` looks."""

    device = torch.device("cuda")
    method, capturable = "mine", True


@pytest.mark.parametrize(
    ("task", "changes", "compute", "optimizer", "live", "reason"),
    [
        ({}, {}, {}, "adamw", False, None),
        ({"capturable": False}, {}, {}, "adamw", False, "the method 'mine', whose steps differ"),
        ({}, {"accumulation": 2}, {}, "adamw", False, "a batch in parts"),
        ({}, {}, {"amp": "fp16"}, "adamw", False, "compute.amp fp16"),
        ({}, {}, {"amp": "bf16"}, "adamw", False, None),
        ({}, {}, {"compile": True}, "adamw", False, "compute.compile"),
        ({}, {}, {}, "adamw", True, "a live teacher"),
        ({}, {}, {}, "lamb", False, "lamb, an optimizer without a kernel for all weights"),
    ],
)
def test_what_is_in_the_way_is_named(task, changes, compute, optimizer, live, reason):
    on_gpu = type("Task", (OnGpu,), task)()
    chosen_recipe = recipe(optimizer=optimizer, **changes)
    made = stepper.make_optimizer(torch.nn.Linear(2, 2), chosen_recipe)
    obstacle_here = obstacle(on_gpu, chosen_recipe, ComputeOptions.model_validate(compute), made, live_teacher=live)
    assert obstacle_here is None if reason is None else (obstacle_here or "").startswith(reason)
