"""TensorRT engines from ONNX: NVIDIA's `tensorrt` where it is installed, else `tensorrt_rtx`.

`tensorrt` builds for the GPU it finds, on the device that will run the engine. `tensorrt_rtx` builds for
named compute capabilities and needs no GPU for it. Their Python API is the same.
"""

import ctypes
import importlib
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from rsd.device import fingerprint
from rsd.errors import UserError
from rsd.files import sha256, written_aside
from rsd.options import Options

LIBRARIES = ("tensorrt", "tensorrt_rtx")
INSTALL = ".venv/bin/pip install -c constraints.txt tensorrt-rtx"


class EngineOptions(Options):
    """Batch sizes and GPUs an engine is made for."""

    min_batch: int = Field(default=1, ge=1)
    opt_batch: int = 1
    """The batch size that kernels are chosen for."""
    max_batch: int = 8
    compute_capabilities: list[Annotated[str, Field(pattern=r"^(\d+\.\d|current)$")]] = Field(["8.6", "8.9", "12.0"])
    """What tensorrt_rtx builds for (RTX 30, 40 and 50 here); `current` is the GPU of this machine.
    tensorrt always builds for the GPU of this machine."""

    @model_validator(mode="after")
    def _ordered(self) -> "EngineOptions":
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            raise ValueError("batch sizes must be ordered: min_batch <= opt_batch <= max_batch")
        if not self.compute_capabilities:
            raise ValueError("compute_capabilities must name at least one GPU generation")
        return self


def available() -> tuple[str, str] | None:
    """(module name, version) of the library that builds engines here, or None."""
    for name in LIBRARIES:
        try:
            version = importlib.import_module(name).__version__
        except ImportError:  # not installed, or its shared libraries are not
            continue
        if name == "tensorrt_rtx" or measurable() is None:  # tensorrt needs the GPU it builds for
            return name, version
    return None


def skipped() -> dict[str, str]:
    """The sidecar of an engine that could not be built, because `available` found nothing."""
    return {"status": "skipped", "reason": f"no TensorRT library can build here; `{INSTALL}` adds one"}


def measurable() -> str | None:
    """Why an engine cannot be measured on this machine; None if it can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "not measured: no CUDA device"
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    return None if found else "not measured: no CUDA device"


def build(onnx_path: Path, engine_path: Path, options: EngineOptions, *, precision: str) -> dict[str, Any]:
    """Build a strongly typed engine: every precision is the one written in the ONNX graph.

    Args:
        onnx_path: a graph with one input and a dynamic first dimension, as `export_onnx` writes it.
        engine_path: where the raw engine goes, without any header.
        precision: noted in the record.

    Returns:
        The record to be kept beside the engine: `status` "built", library and version, compute
        capabilities, precision, inputs and outputs (name, dtype, shape), batch profile, SHA-256 of both
        files, size in bytes, build seconds, and the builder's warnings.

    Raises:
        UserError: no library is installed, the graph holds something TensorRT does not take, this library
            does not know a compute capability, or the build failed.
    """
    found = available()
    if found is None:
        raise UserError(f"expected a TensorRT library that can build here, found none; run `{INSTALL}`")
    library, version = found
    trt = importlib.import_module(library)
    started = time.perf_counter()
    log: list[str] = []
    logger = _logger(trt, log)
    try:
        builder = trt.Builder(logger)
    except (RuntimeError, TypeError) as error:  # pybind11 turns a null builder into a TypeError
        raise UserError(_failure("its builder could not start; it needs a GPU here", library, log)) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        raise UserError(_unparsed(parser, onnx_path, library))
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, options))
    capabilities = _target(trt, config, options, library)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise UserError(_failure(f"no engine came of {onnx_path}", library, log))
    with written_aside(engine_path) as aside:
        aside.write_bytes(engine)
    return {
        "status": "built",
        "library": library,
        "version": version,
        "compute_capabilities": capabilities,
        "precision": precision,
        "inputs": [_port(trt, network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_port(trt, network.get_output(i)) for i in range(network.num_outputs)],
        "profile": {"min": options.min_batch, "opt": options.opt_batch, "max": options.max_batch},
        "onnx_sha256": sha256(onnx_path),
        "engine_sha256": sha256(engine_path),
        "bytes": engine_path.stat().st_size,
        "build_seconds": round(time.perf_counter() - started, 3),
        "warnings": log,
    }


def _logger(trt: Any, log: list[str]) -> Any:
    """A TensorRT logger that keeps warnings and errors in `log` and prints nothing."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                log.append(f"{severity.name}: {message}")

    return Logger()


def _profile(builder: Any, network: Any, options: EngineOptions) -> Any:
    image = network.get_input(0)
    rest = tuple(image.shape)[1:]
    profile = builder.create_optimization_profile()
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    profile.set_shape(image.name, *((batch, *rest) for batch in batches))
    return profile


def _target(trt: Any, config: Any, options: EngineOptions, library: str) -> list[str]:
    """Choose the GPUs to build for; the answer is what the engine is for."""
    if library == "tensorrt":
        return [_own_capability()]
    wanted = options.compute_capabilities
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        name = "CURRENT" if capability == "current" else f"SM{capability.replace('.', '')}"
        target = getattr(trt.ComputeCapability, name, None)
        # An unknown target is refused by the return value alone; the build would go on for another GPU.
        if target is None or not config.set_compute_capability(target, index):
            known = [n for n in trt.ComputeCapability.__members__ if n.startswith("SM")]
            raise UserError(
                f"expected compute capabilities that {library} {trt.__version__} builds for "
                f"({', '.join(f'{n[2:-1]}.{n[-1]}' for n in known)}), found {capability}; "
                "change `compute_capabilities` of the engine"
            )
    return [_own_capability() if capability == "current" else capability for capability in wanted]


def _own_capability() -> str:
    """Compute capability of this machine's first GPU, such as `8.7`; what `current` will have meant elsewhere."""
    capabilities = [gpu["compute_capability"] for gpu in fingerprint()["gpus"]]
    return capabilities[0] if capabilities else "current"


def _port(trt: Any, tensor: Any) -> dict[str, Any]:
    dtype = np.dtype(trt.nptype(tensor.dtype)).name
    return {"name": tensor.name, "dtype": dtype, "shape": list(tensor.shape)}


def _unparsed(parser: Any, onnx_path: Path, library: str) -> str:
    error = parser.get_error(0)
    node = f" at node '{error.node_name()}' ({error.node_operator()})" if error.node_operator() else ""
    return (
        f"expected a graph that {library} takes, found a fault in {onnx_path}{node}: "
        f"{error.desc().strip()}; export with another opset, or choose another student"
    )


def _failure(what: str, library: str, log: list[str]) -> str:
    said = next((line for line in reversed(log) if "ERROR" in line), "no reason was given")
    return f"expected {library} to build an engine, but {what} ({said.strip()}); check driver and GPU memory"
