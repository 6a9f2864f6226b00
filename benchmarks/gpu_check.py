"""Every CUDA and TensorRT path of the project, run on a machine that has a GPU: one record, one table.

    python -m benchmarks.gpu_check            # or: make gpu-check; some minutes

A check passes, fails with a sentence, or is not run with the reason: no CUDA device, fewer GPUs than it needs, or a
library that is not installed. The record, `out/gpu-check.json`, lists all of them and the device. The exit
status is 0 if there is a GPU and no check has failed, else 1.
"""

import ctypes
import importlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch

from benchmarks import gpu_inference, gpu_training
from benchmarks.command import command
from benchmarks.interleaved import markdown
from rsd.export import precisions, runtimes
from rsd.machine.cuda import NoDriverError, driver
from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.machine.fingerprint import fingerprint, short_name
from rsd.machine.revision import git_revision
from rsd.methods import methods

RECORD = Path("out/gpu-check.json")
NO_DEVICE = "no CUDA device"
PROVIDER_LIBRARIES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "tensorrt",
    "NvTensorRTRTXExecutionProvider": "nv_tensorrt_rtx",
}


@dataclass(frozen=True)
class Check:
    """One path. It passes if `run` returns; a UserError says what was expected and what was found."""

    name: str
    run: Callable[[torch.device, Path], dict[str, Any]]
    """Device and a folder of its own run -> facts for the record."""
    gpus: int = 1
    missing: Callable[[], str | None] | None = None
    """Why it cannot be run on this machine even with a GPU."""


def _no_library(library: str) -> str | None:
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    if library == "tensorrt_rtx":  # it knows some generations of GPUs by name and refuses the others
        own = driver().gpus[0].compute_capability
        known = importlib.import_module(library).ComputeCapability.__members__
        if f"SM{own.replace('.', '')}" not in known:
            return f"{library} is not for {own}"
    return None


def _no_provider(name: str) -> str | None:
    if name not in ort.get_available_providers():
        return f"this onnxruntime has no {name}; install onnxruntime-gpu"
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{PROVIDER_LIBRARIES[name]}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        if "cannot open shared object" in str(error):  # this onnxruntime has the provider, not the provider's library
            return f"{name} lacks a library: {error}"
    return None


def _exported(run: Callable[..., dict[str, Any]], *more: Any) -> Callable[[torch.device, Path], dict[str, Any]]:
    """`run(FOLDER, *more)` as a check, where FOLDER holds the exported student."""

    def check(device: torch.device, folder: Path) -> dict[str, Any]:
        gpu_inference.make_student(folder / "digits")
        return run(folder / "digits", *more)

    return check


def _no_edge() -> str | None:
    return _no_library("rsd_edge") or _no_provider("CUDAExecutionProvider")


def _distilling(method: str, device: torch.device, _: Path) -> dict[str, Any]:
    return gpu_training.distilling(device, method)


def checks() -> list[Check]:
    """All of them, in the order in which they run."""
    all_checks = [
        Check("training, float32", lambda device, _: gpu_training.training(device)),
        Check("training, amp bf16", lambda device, _: gpu_training.training(device, amp="bf16")),
        Check("training, amp fp16", lambda device, _: gpu_training.training(device, amp="fp16")),
        Check("training, channels_last", lambda device, _: gpu_training.training(device, channels_last=True)),
        Check("training, compile", lambda device, _: gpu_training.training(device, compile=True)),
        Check("training twice, same bits", lambda device, _: gpu_training.repeated(device)),
        Check("training twice with attention, same bits", gpu_training.attention_repeated),
        Check(
            "training twice with attention in amp bf16, same bits", partial(gpu_training.attention_repeated, amp="bf16")
        ),
        Check("steps as one CUDA graph", gpu_training.as_one_graph),
        Check("steps as one CUDA graph in amp bf16", partial(gpu_training.as_one_graph, amp="bf16")),
        Check("views on the device, same bits", lambda device, _: gpu_training.served_on(device)),
        Check("kernels of other bits refused", lambda device, _: gpu_training.refused(device)),
        Check("resume, same bits", gpu_training.resumed),
        Check("resume in amp fp16, same bits", partial(gpu_training.resumed, amp="fp16")),
        Check("training, two processes over NCCL", gpu_training.in_two_processes, gpus=2),
        Check("embed", gpu_training.embedded),
        Check("rows of a view store in pinned memory", gpu_training.rows_ahead),
        Check("teacher, trained", lambda device, _: gpu_training.distilling(device, "scratch", "cnn")),
        Check("evaluate, CKA, correlation", lambda device, _: gpu_training.looked_into(device)),
    ]
    for method in methods():
        all_checks.append(Check(f"distiller {method}", partial(_distilling, method)))
    for library in runtimes.builders():
        variants: list[tuple[str, dict[str, Any]]] = [
            (precision, options) for options in ({}, {"strip_weights": True}) for precision in precisions.names()
        ]
        if library == "tensorrt":
            levels = ("ampere_plus", "same_compute_capability")
            variants += [("fp32", {"hardware_compatibility": level}) for level in levels]
            variants.append(("fp32", {"version_compatible": True}))
        for precision, options in variants:
            settings = [key if value is True else f"{key} {value}" for key, value in options.items()]
            name = ", ".join([f"engine by {library}", precision, *settings])
            run = _exported(gpu_inference.engine_apart, library, precision, options, "engine")
            all_checks.append(Check(name, run, missing=partial(_no_library, library)))
        for precision in precisions.names():
            for what in sorted(set(gpu_inference.APART) - {"engine"}):
                run = _exported(gpu_inference.engine_apart, library, precision, {}, what)
                name = f"{what} of an engine by {library}, {precision}"
                all_checks.append(Check(name, run, missing=partial(_no_library, library)))
    for provider in gpu_inference.PROVIDERS:
        for precision in precisions.names():
            name, run = f"ONNX Runtime, {provider}, {precision}", _exported(gpu_inference.provider, provider, precision)
            all_checks.append(Check(name, run, missing=partial(_no_provider, provider)))
    for precision in precisions.names():
        run = _exported(gpu_inference.edge_session, precision)
        all_checks.append(Check(f"edge session, {precision}", run, missing=_no_edge))
    return all_checks


def without_gpu() -> str | None:
    """What this machine lacks, in a sentence; None if nothing."""
    try:
        driver()
    except NoDriverError as error:
        return str(error)
    if not torch.cuda.is_available():
        return (
            f"expected a PyTorch that uses this GPU, found {torch.__version__} that does not; install one for its CUDA"
        )
    return None


def run_check(check: Check, device: torch.device, folder: Path) -> dict[str, Any]:
    """Run a check: its name, status ("passed", "failed: ..." or "not run: ..."), seconds and facts."""
    reason = check.missing and check.missing()
    if not reason and device.type == "cuda" and torch.cuda.device_count() < check.gpus:
        reason = f"it needs {check.gpus} GPUs, here is {torch.cuda.device_count()}"
    if reason:
        return {"check": check.name, "status": f"not run: {reason}"}
    start = time.perf_counter()
    try:
        facts, status = check.run(device, folder), "passed"
    except UserError as error:
        facts, status = {}, f"failed: {error}"
    except Exception as error:  # of PyTorch, CUDA, TensorRT: one broken path must not hide the others
        facts, status = {}, f"failed: {type(error).__name__}: {error}"
    return {"check": check.name, "status": status, "seconds": round(time.perf_counter() - start, 1), "facts": facts}


def gpu_check(selection: list[Check], record: Path) -> bool:
    """Run all checks, write the record and print the table; whether there is a GPU and none has failed."""
    lacking = without_gpu()
    if lacking:
        results = [{"check": check.name, "status": f"not run: {NO_DEVICE}"} for check in selection]
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = [run_check(check, torch.device("cuda"), Path(folder)) for check in selection]
    device = fingerprint()
    write_json(
        record, {"device": device, "revision": git_revision(), "torch_cuda": torch.version.cuda, "checks": results}
    )
    print(markdown([_line(result) for result in results]))
    counts = {word: sum(r["status"].startswith(word) for r in results) for word in ("passed", "failed", "not run")}
    print(f"\n{', '.join(f'{n} {word}' for word, n in counts.items())}, on {short_name(device)}; record in {record}")
    if lacking:
        print(f"error: {lacking}", file=sys.stderr)
    return not lacking and not counts["failed"]


def _line(result: dict[str, Any]) -> dict[str, str]:
    seconds = result.get("seconds")
    return {
        "check": result["check"],
        "status": " ".join(result["status"].split()).replace("|", "/"),
        "seconds": "" if seconds is None else f"{seconds:.1f}",
        "found": _facts(result.get("facts") or {}),
    }


def _facts(facts: dict[str, Any]) -> str:
    """The numbers of a result that a reader looks for first."""
    parts = []
    if "apart" in facts:
        parts.append(f"apart by {facts['apart']:.2g}")
    if "parity" in facts:
        parts.append(f"same first class on {100 * facts['parity']['top1_agreement']:.2f} % of the images")
    for batch, times in facts.get("latency", {}).items():
        parts.append(
            f"{batch}: " + ", ".join(f"{value:.3f} ms {name.removesuffix(', ms')}" for name, value in times.items())
        )
    return "; ".join(parts)


def main() -> None:
    sys.exit(0 if gpu_check(checks(), RECORD) else 1)


if __name__ == "__main__":
    command(main, __doc__)
