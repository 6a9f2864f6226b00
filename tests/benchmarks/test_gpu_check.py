"""What of it runs on a CPU: each check of training there, engines with a runner that is a fake, and the record."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from benchmarks import gpu_check as module
from benchmarks import gpu_inference, gpu_training
from benchmarks.gpu_check import Check, checks, gpu_check, run_check
from rsd.export import precisions, runtimes
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.tensorrt import EngineOptions, available
from rsd.machine.compute import ComputeOptions
from rsd.machine.cuda import Driver, Gpu, NoDriverError
from rsd.machine.errors import UserError
from rsd.methods import methods

CPU = torch.device("cpu")
TOY = gpu_training.Case(gpu_training.STUDENTS["vit"], gpu_training.STUDENTS["vit"], "adamw", shape=(16, 16, 3), batch=8)
pytestmark = pytest.mark.xdist_group("gpu_check")


def choices(options: type[BaseModel], field: str) -> set[str]:
    """What an option may be but its default, which changes nothing."""
    info = options.model_fields[field]
    return set(get_args(info.annotation)) - {info.default}


def test_every_path_is_listed_once():
    """What the project's own registers and options name, and what no register does."""
    names = [check.name for check in checks()]
    assert len(set(names)) == len(names)
    expected = {f"distiller {method}" for method in methods()}
    expected |= {f"training, amp {amp}" for amp in choices(ComputeOptions, "amp")}
    expected |= {"engine by tensorrt, fp32, version_compatible"}
    expected |= {
        f"engine by tensorrt, fp32, hardware_compatibility {level}"
        for level in choices(EngineOptions, "hardware_compatibility")
    }
    for precision in precisions.names():
        for library in runtimes.builders():
            engine = f"engine by {library}, {precision}"
            expected |= {engine, f"{engine}, strip_weights", f"every value of an {engine}", f"benchmark of an {engine}"}
        gpu = [name for name in gpu_inference.PROVIDERS if name != "CPUExecutionProvider"]
        expected |= {f"ONNX Runtime, {name}, {precision}" for name in gpu} | {f"edge session, {precision}"}
    assert expected - set(names) == set()
    more = "channels_last, compile, CUDA graph, views on, NCCL, resume, embed, same bits, teacher, CKA, pinned"
    for words in more.split(", "):
        assert any(words in name for name in names), words


def test_a_gpu_unknown_to_tensorrt_is_no_failure(monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    machine = [Gpu("NVIDIA Fake", "9.0", 1)]
    monkeypatch.setattr(module, "driver", lambda: Driver((13, 0), machine))
    rtx = [check for check in checks() if "tensorrt_rtx" in check.name]
    assert len(rtx) == 12
    for check in rtx:
        assert run_check(check, CPU, Path())["status"] == "not run: tensorrt_rtx is not for 9.0"
    machine[0] = Gpu("NVIDIA Fake", "8.9", 1)
    assert {check.missing and check.missing() for check in rtx} == {None}


def test_an_engine_meets_the_gates_of_the_pipeline(tmp_path):
    """Not to the hundredth of the logit range that providers of ONNX Runtime are allowed."""
    logits = np.random.default_rng(0).normal(size=(600, 10)).astype(np.float32)
    np.save(tmp_path / "fp32.npy", logits)
    np.savez(tmp_path / "test.npz", images=np.zeros(600), labels=logits.argmax(axis=1))
    share = float(np.ptp(logits))
    assert gpu_inference.through_gate(logits + 5e-5 * share, tmp_path, "fp32")["images"] == 600
    with pytest.raises(UserError, match=r"^the fp32 engine differs from its ONNX file by 5\.\d+e-03"):
        gpu_inference.through_gate(logits + 5e-3 * share, tmp_path, "fp32")
    assert gpu_inference.near_cpu(logits + 5e-3 * share, tmp_path, "fp32")["top1_agreement"] == 1


def test_without_a_gpu_the_command_fails(monkeypatch, tmp_path, capsys):
    def absent():
        raise NoDriverError("expected an NVIDIA driver, found none; install the driver")

    monkeypatch.setattr(module, "driver", absent)
    assert not gpu_check(checks(), tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert [c["check"] for c in record["checks"]] == [c.name for c in checks()]
    assert {c["status"] for c in record["checks"]} == {"not run: no CUDA device"}
    output = capsys.readouterr()
    assert output.err == "error: expected an NVIDIA driver, found none; install the driver\n"
    assert f"0 passed, 0 failed, {len(checks())} not run, on " in output.out


def test_a_failed_check_does_not_hide_the_next(monkeypatch, tmp_path):
    def refuse(device, folder):
        raise UserError("expected sense, found none")

    def crash(device, folder):
        raise RuntimeError("CUDA error")

    outcome = [
        Check("passes", lambda device, folder: {"apart": 0.5}),
        Check("refuses", refuse),
        Check("crashes", crash),
        Check("lacks", crash, missing=lambda: "no library"),
        Check("needs two", crash, gpus=2),
    ]
    monkeypatch.setattr(module, "without_gpu", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not gpu_check(outcome, tmp_path / "record.json")
    results = json.loads((tmp_path / "record.json").read_text())["checks"]
    assert [r["status"] for r in results] == [
        "passed",
        "failed: expected sense, found none",
        "failed: RuntimeError: CUDA error",
        "not run: no library",
        "not run: it needs 2 GPUs, here is 1",
    ]
    assert results[0]["facts"] == {"apart": 0.5}
    assert gpu_check([outcome[0], outcome[3], outcome[4]], tmp_path / "record.json")  # what is not run fails nothing


@pytest.mark.parametrize(
    "run",
    [
        lambda folder: gpu_training.training(CPU),
        lambda folder: gpu_training.training(CPU, "vit", amp="bf16"),
        lambda folder: gpu_training.training(CPU, channels_last=True),
        lambda folder: gpu_training.attention_repeated(CPU, folder, case=TOY),
        lambda folder: gpu_training.as_one_graph(CPU, folder, case=TOY),
        lambda folder: gpu_training.served_on(CPU),
        lambda folder: gpu_training.resumed(CPU, folder),
        lambda folder: gpu_training.embedded(CPU, folder),
        lambda folder: gpu_training.rows_ahead(CPU, folder),
        lambda folder: gpu_training.looked_into(CPU),
        lambda folder: gpu_training.distilling(CPU, "scratch", "cnn"),
        lambda folder: gpu_training.distilling(CPU, "fitnet"),
    ],
    ids=[
        "float32",
        "bf16",
        "channels_last",
        "attention",
        "graph",
        "views",
        "resume",
        "embed",
        "rows",
        "evaluate",
        "teacher",
        "fitnet",
    ],
)
def test_each_check_of_training_passes_on_a_cpu(tmp_path, run):
    result = run_check(Check("c", lambda device, folder: run(folder)), CPU, tmp_path)
    assert result["status"] == "passed", result


@pytest.mark.slow
def test_so_do_two_processes_and_training_twice(tmp_path):
    # AdamW makes steps of the learning rate of the smallest gradients, too, which are rounding.
    assert gpu_training.in_two_processes(CPU, tmp_path)["apart"] < 1e-3
    gpu_training.repeated(CPU)


@pytest.mark.slow
@pytest.mark.parametrize("method", methods())
def test_so_does_every_method(method):
    assert gpu_training.distilling(CPU, method)["apart"] == 0


def test_kernels_of_other_bits_that_are_taken_fail():
    with pytest.raises(UserError, match="expected adaptive_max_pool2d to be refused"):
        gpu_training.refused(CPU)  # a CPU has no others


def test_a_provider_without_its_library_is_no_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(module.ort, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(module.ort, "__file__", str(tmp_path / "__init__.py"))
    (tensorrt,) = (c for c in checks() if c.name == "ONNX Runtime, TensorrtExecutionProvider, fp32")
    assert run_check(tensorrt, CPU, Path())["status"].startswith("not run: TensorrtExecutionProvider lacks a library: ")


def test_a_training_that_strays_fails(monkeypatch):
    monkeypatch.setitem(gpu_training.TOLERANCE, "bf16", 1e-9)
    with pytest.raises(UserError, match="expected the losses of the CPU's float32 training within"):
        gpu_training.training(CPU, "vit", amp="bf16")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "digits"
    gpu_inference.make_student(folder)
    return folder


@pytest.mark.slow
def test_parity_is_on_images_that_the_student_knows(digits):
    assert json.loads((digits / "done.json").read_text())["validation_top1"] > 80


@pytest.mark.slow
@pytest.mark.parametrize("precision", precisions.names())
def test_a_provider_is_timed_and_matches_the_cpu(digits, monkeypatch, precision):
    monkeypatch.setattr(gpu_inference, "RUNS", 3)
    outcome = gpu_inference.provider(digits, "CPUExecutionProvider", precision, device="cpu")
    assert outcome["parity"]["top1_agreement"] > 0.99
    assert set(outcome["latency"]["batch 1"]) == {"with copies, ms", "compute only, ms"}


@pytest.mark.slow
def test_a_provider_that_falls_back_fails(digits):
    refused = pytest.raises(UserError, match="took CPUExecutionProvider")
    with pytest.warns(UserWarning, match="not in available provider names"), refused:
        gpu_inference.provider(digits, "CUDAExecutionProvider", "fp32")


@pytest.mark.slow
@pytest.mark.skipif((available() or ("",))[0] != "tensorrt_rtx", reason="tensorrt_rtx is not used here")
@pytest.mark.parametrize("precision", precisions.names())
def test_an_engine_is_timed_and_matches_the_cpu(digits, monkeypatch, precision):
    class Engine:
        def logits(self, images):
            return logits_of(digits / f"{precision}.onnx", images)

        def with_copies(self, images):
            return lambda: None

        compute_only = with_copies

    @contextmanager
    def opened(folder, *, onnx):
        assert (folder / "model.engine").stat().st_size
        yield Engine()

    monkeypatch.setattr(gpu_inference, "open_engine", opened)
    options = {"compute_capabilities": ["8.6"], "max_batch": 4}
    outcome = gpu_inference.engine(digits, "tensorrt_rtx", precision, options)
    assert outcome["parity"]["images"] == 597
    assert set(outcome["latency"]) == {"batch 1", "batch 4"}
    assert np.isfinite(outcome["build_seconds"])


@pytest.mark.slow
@pytest.mark.skipif((available() or ("",))[0] != "tensorrt_rtx", reason="tensorrt_rtx is not used here")
def test_an_engines_process_says_why_it_cannot_run(digits):
    if torch.cuda.is_available():
        pytest.skip("it can be run")
    with pytest.raises(UserError, match="^expected an NVIDIA driver, found none"):
        gpu_inference.engine_apart(digits, "tensorrt_rtx", "fp32", {"compute_capabilities": ["8.6"]})


def test_the_page_on_gpus_counts_its_records_checks():
    docs = Path(__file__).parents[2] / "docs"
    results = json.loads((docs / "gpu" / "check.json").read_text())["checks"]
    count = {word: sum(r["status"].startswith(word) for r in results) for word in ("passed", "failed", "not run")}
    output = ", ".join(f"{number} {word}" for word, number in count.items())
    assert output in (docs / "gpu.md").read_text()
