"""TensorRT engines from ONNX: one way for NVIDIA's `tensorrt` (data centre, Jetson) and `tensorrt_rtx`.

`tensorrt` builds for the GPU it finds, on the device that will run the engine. `tensorrt_rtx` builds for
named compute capabilities and needs no GPU for it. Their Python API is the same, but each lacks some of it: what
was asked for and is not there is said in a sentence.
"""

import importlib
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
from pydantic import Field, model_validator

from rsd.export import runtimes
from rsd.export.refusals import unbuilt, unparsed
from rsd.export.runtimes._tensorrt import INSTALL, TensorRT, measurable
from rsd.machine.cuda import NoDriverError, driver
from rsd.machine.errors import UserError
from rsd.machine.files import sha256, written_aside
from rsd.machine.options import OneOf, Options
from rsd.run.records import EngineRecord, Port


class EngineOptions(Options):
    """`engine` of params.yaml: what an engine is made for."""

    library: Annotated[str, OneOf(lambda: ["auto", *runtimes.builders()])] = "auto"
    """`auto` takes the first that can build here."""
    min_batch: int = Field(default=1, ge=1, le=65536)
    opt_batch: int = Field(1, ge=1, le=65536)
    """The batch size that kernels are chosen for."""
    max_batch: int = Field(8, ge=1, le=65536)
    compute_capabilities: list[Annotated[str, Field(pattern=r"^(\d+\.\d|current)$")]] | None = None
    """GPU generations; `current` is the GPU of this machine, the only one that tensorrt builds for. By default
    tensorrt takes `current` and tensorrt_rtx 8.6, 8.9 and 12.0 (RTX 30, 40 and 50)."""
    hardware_compatibility: Literal["none", "same_compute_capability", "ampere_plus"] = "none"
    """Other GPUs that the engine runs on, too; slower. tensorrt only."""
    version_compatible: bool = False
    """Later versions of tensorrt load the engine, too. It then holds code for the CPU, and is slower."""
    strip_weights: bool = False
    """Leave the weights out; they are filled in from the ONNX file when the engine is loaded."""

    @model_validator(mode="after")
    def _possible(self) -> "EngineOptions":
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            sizes = f"{self.min_batch}, {self.opt_batch}, {self.max_batch}"
            raise ValueError(f"expected min_batch <= opt_batch <= max_batch, found {sizes}")
        if self.compute_capabilities == []:
            raise ValueError("expected GPU generations in compute_capabilities, or null, found []")
        return self


def available(library: str = "auto") -> tuple[str, str] | None:
    """(name, version) of the library that builds engines here, or None."""
    for name in runtimes.builders() if library == "auto" else (library,):
        runtime = builder(name)
        if runtime.cannot_build() is None:
            return name, runtime.load()
    return None


def builder(name: str) -> TensorRT:
    """The runtime of this name, one of `runtimes.builders()`."""
    runtime = runtimes.get(name)
    assert isinstance(runtime, TensorRT)
    return runtime


def skipped(library: str, precision: str, reason: str | None = None) -> EngineRecord:
    """The record of an engine that could not be built; without a reason, because `available` names no library."""
    if not reason and library != "auto":
        reason = builder(library).cannot_build()
    reason = reason or f"no TensorRT library can build here; `{INSTALL}` adds one"
    return EngineRecord(status="skipped", precision=precision, library=library, reason=reason)


def build(
    onnx_path: Path,
    engine_path: Path,
    options: EngineOptions,
    *,
    precision: str,
    log: Path | None = None,
    every_value: bool = False,
) -> EngineRecord:
    """Build a strongly typed engine, whose every precision is that of the ONNX graph; the record to keep beside it.

    Args:
        onnx_path: a graph with one input and a dynamic first dimension; int8 as explicit Q/DQ.
        engine_path: where the raw engine goes, without any header.
        precision: noted in the record.
        log: where the library's messages go, of a failed build, too.
        every_value: make every float value between pixels and logits an output, under its name in the ONNX graph; less
            is fused then.

    Raises:
        RefusedGraphError: the graph holds something that TensorRT does not take or build.
        UserError: no library is installed, this library does not know a compute capability or has not what was asked
            for, or the build failed.
    """
    usable = available(options.library)
    if usable is None:
        raise UserError(f"expected a TensorRT library that can build here, found none; run `{INSTALL}`")
    trt = importlib.import_module(usable[0])
    messages: list[str] = []
    try:
        return _build(trt, messages, onnx_path, engine_path, options, precision, every_value=every_value)
    except UserError as error:
        raise type(error)(f"{error}; see {log}" if log else str(error)) from error
    finally:
        if log:
            with written_aside(log) as aside:
                aside.write_text("".join(f"{message}\n" for message in messages))


def _build(
    trt: Any,
    messages: list[str],
    onnx_path: Path,
    engine_path: Path,
    options: EngineOptions,
    precision: str,
    *,
    every_value: bool,
) -> EngineRecord:
    library = trt.__name__
    started = time.perf_counter()
    logger = _logger(trt, messages)
    try:
        builder = trt.Builder(logger)
    except (RuntimeError, TypeError) as error:  # pybind11 turns a null builder into a TypeError
        raise UserError(_failure("its builder could not start; it needs a GPU here", library, messages)) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    content = onnx_path.read_bytes()
    if not parser.parse(content):
        raise unparsed(parser, onnx_path, library)
    model = onnx.load_from_string(content)
    if every_value:
        _expose(trt, network, {name for node in model.graph.node for name in node.output})
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, options))
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default; its 10 bits of mantissa would fail fp32's gate
    capabilities = _target(trt, config, options)
    _be_compatible(trt, config, options)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        if refused := unbuilt(messages, onnx_path, library):
            raise refused
        hint = ""
        if options.strip_weights and measurable():
            hint = ", or set strip_weights to false: without a GPU not every version can"
        raise UserError(_failure(f"no engine came of {onnx_path}", library, messages) + hint)
    with written_aside(engine_path) as aside:
        aside.write_bytes(engine)
    return EngineRecord(
        status="built",
        precision=precision,
        library=library,
        version=trt.__version__,
        cuda=cuda_major(library),
        compute_capabilities=capabilities,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        weights_stripped=options.strip_weights,
        built_on=_own_gpu(),
        inputs=[_port(trt, network.get_input(i)) for i in range(network.num_inputs)],
        outputs=[_port(trt, network.get_output(i)) for i in range(network.num_outputs)],
        profile={"min": options.min_batch, "opt": options.opt_batch, "max": options.max_batch},
        metadata={entry.key: entry.value for entry in model.metadata_props},
        onnx_sha256=sha256(onnx_path),
        engine_sha256=sha256(engine_path),
        bytes=engine_path.stat().st_size,
        build_seconds=round(time.perf_counter() - started, 3),
        warnings=[message for message in messages if not message.startswith("INFO")],
    )


def cuda_major(library: str) -> int | None:
    """The major version of CUDA that an installed library is made with; None where pip did not install it.

    A driver must know at least this one.
    """
    names = {package.metadata["Name"].lower().replace("-", "_") for package in metadata.distributions()}
    majors = [name.removeprefix(f"{library}_cu") for name in names if name.startswith(f"{library}_cu")]
    return max((int(major) for major in majors if major.isdecimal()), default=None)


def _logger(trt: Any, messages: list[str]) -> Any:
    """A TensorRT logger that keeps all but the verbose in `messages` and prints nothing."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                messages.append(f"{severity.name}: {message}")

    return Logger()


def _profile(builder: Any, network: Any, options: EngineOptions) -> Any:
    image = network.get_input(0)
    rest = tuple(image.shape)[1:]
    profile = builder.create_optimization_profile()
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    profile.set_shape(image.name, *((batch, *rest) for batch in batches))
    return profile


def _expose(trt: Any, network: Any, names: set[str]) -> None:
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    for tensor in [layer.get_output(i) for layer in layers for i in range(layer.num_outputs)]:
        if tensor.name in names and tensor.dtype in (trt.float32, trt.float16) and not tensor.is_network_output:
            network.mark_output(tensor)


def _target(trt: Any, config: Any, options: EngineOptions) -> list[str]:
    """Choose the GPUs to build for; the answer is what the engine is for."""
    library, own = trt.__name__, _own_gpu()
    cross = hasattr(config, "set_compute_capability")
    targets = options.compute_capabilities or list(builder(library).capabilities)
    if "current" in targets and not own:
        raise UserError("expected a GPU for the compute capability `current`, found none; name one, such as 8.6")
    resolved = [own["compute_capability"] if capability == "current" and own else capability for capability in targets]
    if not cross:
        if own and resolved != [own["compute_capability"]]:
            raise UserError(
                f"expected compute_capabilities of `current`, since {library} builds for the GPU of this machine "
                f"({own['compute_capability']}) alone, found {', '.join(targets)}; build on the device itself, or with "
                "tensorrt_rtx"
            )
        return resolved
    config.num_compute_capabilities = len(targets)
    supported = known_capabilities(trt) or []
    for index, (capability, own_name) in enumerate(zip(targets, resolved, strict=True)):
        name = "CURRENT" if capability == "current" else f"SM{capability.replace('.', '')}"
        # An unknown target is refused by the return value alone; the build would go on for another GPU. `current` is
        # taken of any GPU, and the engine refused when it is loaded.
        if own_name not in supported or not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
            raise UserError(
                f"expected compute capabilities that {library} {trt.__version__} builds for ({', '.join(supported)}), "
                f"found {own_name}; change `compute_capabilities` of the engine, or take another library"
            )
    return resolved


def known_capabilities(trt: Any) -> list[str] | None:
    """The GPU generations that a TensorRT module builds for by name; None where it has no such list."""
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", None)
    return None if names is None else [f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM")]


def _be_compatible(trt: Any, config: Any, options: EngineOptions) -> None:
    """Ask for what makes an engine portable, and make sure that the library has taken it."""
    if options.hardware_compatibility != "none":
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        level = getattr(levels, options.hardware_compatibility.upper(), None)
        if level is not None:
            config.hardware_compatibility_level = level
        # tensorrt_rtx has the names, warns, and builds as if nothing had been asked for.
        if level is None or config.hardware_compatibility_level != level:
            raise UserError(
                _lacks(trt, f"hardware_compatibility {options.hardware_compatibility}", "hardware_compatibility: none")
            )
    loadable = builder(trt.__name__).version_compatible
    if options.version_compatible and (not loadable or not _flagged(trt, config, "VERSION_COMPATIBLE")):
        raise UserError(_lacks(trt, "engines that later versions load", "version_compatible: false"))
    if options.strip_weights and not _flagged(trt, config, "STRIP_PLAN"):
        raise UserError(_lacks(trt, "engines without weights", "strip_weights: false"))


def _flagged(trt: Any, config: Any, name: str) -> bool:
    flag = getattr(trt.BuilderFlag, name, None)
    if flag is None:
        return False
    config.set_flag(flag)
    return bool(config.get_flag(flag))


def _lacks(trt: Any, what: str, instead: str) -> str:
    return (
        f"expected a library that builds with {what}, found {trt.__name__} {trt.__version__}, which does not; set "
        f"`{instead}` of the engine, or take another library"
    )


def _own_gpu() -> dict[str, str] | None:
    """This machine's first GPU: what `current` will have meant elsewhere. None without one."""
    try:
        here = driver()
    except NoDriverError:
        return None
    gpu = here.gpus[0]
    return {"gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": "CUDA {}.{}".format(*here.cuda)}


def _port(trt: Any, tensor: Any) -> Port:
    dtype = np.dtype(trt.nptype(tensor.dtype)).name
    return Port(name=tensor.name, dtype=dtype, shape=list(tensor.shape))


def _failure(what: str, library: str, messages: list[str]) -> str:
    reason = next((line for line in reversed(messages) if "ERROR" in line), "no reason was given")
    return f"expected {library} to build an engine, but {what} ({reason.strip()}); check driver and GPU memory"
