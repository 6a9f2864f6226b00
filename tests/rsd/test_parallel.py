"""Two processes that share a batch do what one process does with the whole of it."""

import os
import subprocess
import sys

import pytest
import torch

from rsd.distillers import distiller
from rsd.models import Outputs
from rsd.parallel import gather
from tests.rsd.distillers.tiny import BATCH, SHAPE, images, target, told, vit

PROCESSES = 2


def task_of(method, **options):
    task_class = distiller(method)
    task = task_class(
        vit(class_token=False, global_pool="avg"), teacher_width=20, image_shape=SHAPE,
        options=task_class.Options(**options),
    )  # fmt: skip
    with torch.no_grad():  # layers at their starting values hardly pass a gradient on
        for number, parameter in enumerate(task.trainable_module.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.1 * noise)
    return task.double()


def gradients(task, share):
    """Of every parameter, after one step on `share` of the batch, in float64."""
    teacher = Outputs(told().embedding[share].double(), told().logits[share].double())
    task(images()[share].double(), target()[share], teacher)["loss"].backward()
    return {
        name.removeprefix("module."): p.grad.clone()
        for name, p in task.trainable_module.named_parameters()
        if p.grad is not None
    }


CASES = {
    "rsd": ("rsd", {"space": "both", "weight": 1.0}),
    "rsd per process": ("rsd", {"weight": 1.0, "correlation": "per_process"}),
    "ofa with rsd": ("ofa", {"loss": "rsd", "rsd_weight": 1.0}),
}
SIZE = BATCH // PROCESSES


def work(rank, store, out):
    """What each process of the test runs."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    share = slice(rank * SIZE, (rank + 1) * SIZE)
    found = {
        name: gradients(task_of(m, **options).prepare_distributed(), share) for name, (m, options) in CASES.items()
    }
    torch.save(found, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The gradients in each process, by case. Starting a process is what takes the time, so it happens once."""
    folder = tmp_path_factory.mktemp("processes")
    program = "import sys; from tests.rsd.test_parallel import work; work(int(sys.argv[1]), *sys.argv[2:])"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), str(folder / "store"), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for rank in range(PROCESSES)
    ]
    try:
        assert [process.wait(timeout=240) for process in started] == [0] * PROCESSES
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("case", ["rsd", "ofa with rsd"])
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(found, case):
    method, options = CASES[case]
    whole = gradients(task_of(method, **options), slice(None))
    for process in found:
        assert process[case].keys() == whole.keys()
        for name, gradient in whole.items():
            assert torch.allclose(process[case][name], gradient, rtol=1e-9, atol=1e-12), name


def test_per_process_correlation_is_the_mean_of_what_each_process_would_do_alone(found):
    method, options = CASES["rsd per process"]
    halves = [gradients(task_of(method, **options), slice(r * SIZE, (r + 1) * SIZE)) for r in range(PROCESSES)]
    for process in found:
        for name, gradient in process["rsd per process"].items():
            assert torch.allclose(gradient, (halves[0][name] + halves[1][name]) / 2, rtol=1e-9, atol=1e-12), name


def test_a_lone_process_gets_its_own_tensor_back():
    own = torch.randn(3, 2)
    assert gather(own) is own
