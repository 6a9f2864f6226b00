"""Two processes that share a batch do what one process does with the whole of it."""

import os
import signal

import pytest
import torch

from rsd.machine.parallel import gather
from tests.rsd.machine.in_processes import (
    CASES,
    EQUAL,
    MIXED,
    MORE,
    PROCESSES,
    SINGLE,
    SIZE,
    end_together,
    gradients,
    many_steps,
    predicted,
    task_of,
    together,
)
from tests.rsd.teacher import test_embed

pytestmark = pytest.mark.xdist_group("parallel")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def results(folder):
    """What each process found. Starting a process is what takes the time, so it happens once."""
    return together("work", PROCESSES, folder)


@pytest.mark.parametrize("case", ["rsd", "ofa with rsd"])
def test_two_processes_have_the_gradients_of_one(results, case):
    method, options = CASES[case]
    whole = gradients(task_of(method, **options), slice(None))
    for process in results:
        process = process["cases"]
        assert process[case].keys() == whole.keys()
        for name, gradient in whole.items():
            assert torch.allclose(process[case][name], gradient, rtol=1e-9, atol=1e-12), name


def test_per_process_correlation_is_the_mean_over_processes(results):
    method, options = CASES["rsd per process"]
    halves = [gradients(task_of(method, **options), slice(r * SIZE, (r + 1) * SIZE)) for r in range(PROCESSES)]
    for process in results:
        for name, gradient in process["cases"]["rsd per process"].items():
            assert torch.allclose(gradient, (halves[0][name] + halves[1][name]) / 2, rtol=1e-9, atol=1e-12), name


def test_a_lone_process_gets_its_own_tensor_back():
    own = torch.randn(3, 2)
    assert gather(own) is own


@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_train_the_weights_of_one(results, case):
    alone = many_steps(*EQUAL[case])["weights"]
    for process in results:
        weights = process["equal"][case]["weights"]
        assert weights.keys() == alone.keys()
        assert "student.pos_embed" in alone
        for name in alone:
            assert torch.allclose(weights[name], alone[name], rtol=1e-9, atol=1e-9), name


@pytest.mark.parametrize("case", SINGLE)
def test_float32_gradients_agree_to_one_in_100000(results, case):
    alone = many_steps(*EQUAL[case], dtype=torch.float32, steps=1)["gradients"]
    for process in results:
        gradients = process["single"][case]["gradients"]
        for name in alone:
            difference = (gradients[name] - alone[name]).norm()
            assert difference <= 1e-5 * alone[name].norm().clamp_min(1e-6), name


def test_each_process_draws_its_own_dropout(results):
    """The leading process draws that of a lone one."""
    first, second = (process["random_states"] for process in results)
    assert [torch.equal(one, other) for one, other in zip(first, second, strict=True)] == [False] * len(first)
    torch.manual_seed(0)
    assert torch.equal(first[0], torch.get_rng_state())


def test_all_processes_end_with_the_same_state(results):
    first, second = (process["trained"][0] for process in results)
    assert first["history"] == second["history"]
    for part in ("student", "scaffold"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])


def check_resumed(results):
    for process in results:
        assert process["died"]
        whole, resumed = process["trained"]
        assert whole["history"] == resumed["history"]
        for part in ("student", "scaffold"):
            assert all(torch.equal(whole[part][name], resumed[part][name]) for name in whole[part])


def test_two_stopped_processes_resume_to_the_same_bits(results):
    check_resumed(results)


@pytest.mark.slow
def test_three_stopped_processes_resume_to_the_same_bits(tmp_path):
    """Of three terms a sum depends on its order, which must therefore be that of the undisturbed run."""
    check_resumed(together("resume_in_more", MORE, tmp_path))


def same_store(one, other):
    return all(
        (one / "views" / name).read_bytes() == (other / "views" / name).read_bytes()
        for name in ("embedding.npy", "logits.npy", "header.json")
    )


def test_two_processes_write_the_store_of_one(results, folder, tmp_path):
    test_embed.write(tmp_path, augment=MIXED)
    assert sorted(os.listdir(folder / "whole" / "views")) == ["embedding.npy", "header.json", "logits.npy"]
    assert same_store(folder / "whole", tmp_path)
    assert same_store(folder / "resumed", tmp_path)
    assert [process["embedded"] for process in results] == [4 - 1, 5 - 3]  # of 9 batches, those that were left


def test_another_process_count_begins_a_new_store(results, folder, tmp_path):
    assert (folder / "left" / "state" / "store" / "progress-1.json").exists()
    test_embed.write(folder / "left", augment=MIXED)
    test_embed.write(tmp_path, augment=MIXED)
    assert same_store(folder / "left", tmp_path)
    assert sorted(os.listdir(folder / "left" / "views")) == ["embedding.npy", "header.json", "logits.npy"]


def test_a_process_waits_for_slow_ones_not_dead(tmp_path):
    """Shares of a view store are hours of work, and differ."""
    assert end_together("wait_for_a_slow_one_and_for_a_dead_one", 2, tmp_path) == [0, -signal.SIGKILL]
    assert (tmp_path / "noticed").exists()


def test_two_processes_predict_the_bits_of_one(results):
    for number, alone in enumerate(predicted()):
        assert alone.shape == (len(test_embed.PIXELS), 4)
        assert all(torch.equal(process["predicted"][number], alone) for process in results)
