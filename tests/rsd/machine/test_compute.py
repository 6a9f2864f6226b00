"""What dvc.yaml says of the `compute` section."""

from pathlib import Path

import pytest
import torch

from rsd.machine.compute import ComputeOptions, on_this_machine, set_up, training_kernels
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml

ROOT = Path(__file__).parents[3]
FILE = "out/params/compute.json"
STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]
KEYS = {
    name: keys
    for name, stage in STAGES.items()
    for entry in stage.get("params", ())
    for file, keys in entry.items()
    if file == FILE
}


@pytest.mark.parametrize("name", ["teacher", "distill"])
def test_a_training_depends_on_options_that_change_bits(name):
    assert sorted(KEYS[name]) == sorted(ComputeOptions().decisive())
    assert "workers" not in KEYS[name]


def test_inference_depends_on_the_options_it_uses():
    assert KEYS["embed"] == KEYS["evaluate"] == ["device", "threads"]
    assert KEYS["export"] == KEYS["convert"] == ["threads"]


def test_stages_depend_on_parts_of_the_section():
    readers = {name for name in STAGES if 'section("compute"' in (ROOT / "stages" / f"{name}.py").read_text()}
    assert readers == KEYS.keys()
    assert not [name for name, stage in STAGES.items() if FILE in stage["deps"]]


@pytest.mark.parametrize(("device", "gpus", "wanted", "started"), [
    ("auto", 4, 8, 4), ("cuda", 4, 2, 2), ("auto", 1, 8, 1), ("cpu", 4, 8, 8), ("auto", 0, 8, 8),
])  # fmt: skip
def test_local_work_takes_one_process_per_gpu(monkeypatch, device, gpus, wanted, started):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    options = ComputeOptions.model_validate({"device": device, "processes": wanted})
    assert on_this_machine(options) == options.model_copy(update={"processes": started})


def kernels() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize(("deterministic", "inside"), [(True, (True, False, False)), (False, (False, False, True))])
def test_training_kernels_are_set_and_restored(deterministic, inside):
    set_up(ComputeOptions(device="cpu"))
    before, options = kernels(), ComputeOptions(deterministic=deterministic)
    with training_kernels(options, torch.device("cuda")):
        assert kernels() == inside
    assert kernels() == before == (True, True, False)
    with training_kernels(options, torch.device("cpu")):
        assert kernels() == before


def test_an_operation_without_deterministic_kernel_is_named():
    message = "frob_backward_cuda does not have a deterministic implementation, but you set ..."
    wanted = r"\(frob_backward_cuda does not have a deterministic implementation\); set compute.deterministic to false"
    before = kernels()
    with pytest.raises(UserError, match=wanted), training_kernels(ComputeOptions(), torch.device("cuda")):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="^out of memory$"), training_kernels(ComputeOptions(), torch.device("cuda")):
        raise RuntimeError("out of memory")
    assert kernels() == before


@pytest.mark.parametrize(("amp", "filled"), [("none", False), ("bf16", True)])
def test_memory_is_filled_for_bf16_on_cpus_only(amp, filled):
    set_up(ComputeOptions(device="cpu", amp=amp))
    assert torch.utils.deterministic.fill_uninitialized_memory == filled  # type: ignore[attr-defined]
    set_up(ComputeOptions(device="cpu"))
