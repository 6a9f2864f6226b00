"""An engine file with its sidecar: whether this machine can run it, and what it says."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from packaging.version import InvalidVersion, Version

from rsd.export.tensorrt import cuda_major, known_capabilities
from rsd.machine.cuda import Driver, NoDriverError, driver
from rsd.machine.errors import UserError
from rsd.machine.faults import read_checked
from rsd.machine.files import sha256
from rsd.run.names import ENGINE, ENGINE_RECORD
from rsd.run.records import EngineRecord
from rsd.sources.images import Images

# Across major versions NVIDIA promises these alone to version-compatible engines (its support matrix): built -> runs.
ACROSS = {(8, 10), (10, 11)}


class WrongEngineError(UserError):
    """The machine may be fine, but this engine is not for it, or not what its sidecar says."""


class OtherGpuError(WrongEngineError):
    """The engine is for other GPUs than this machine's."""


def check_engine(folder: Path) -> EngineRecord:
    """The sidecar of the engine in `folder`, once it is sure that it can run here; no byte of it is loaded.

    Checked in this order: there is one; its SHA-256 is the sidecar's; the library that built it is here, in a
    version that reads it; a driver works and is new enough; the GPU is one that the engine is for; and what the
    library itself says, where it can be asked (`tensorrt_rtx`). What is wrong with the file is so found without a
    GPU, too.

    Raises:
        OtherGpuError: it is not for this GPU.
        WrongEngineError: the engine is not there, not what its sidecar says, or not for this library.
        NoDriverError: there is no GPU to run any engine on.
    """
    record = _sidecar(folder)
    _check_library(record)
    _check_machine(record, driver())
    _ask_library(record, folder / ENGINE)
    return record


def read_sidecar(folder: Path) -> EngineRecord:
    """The record beside an engine; UserError where it is missing or damaged."""
    then = "run the stage `engine`, or copy the folder again"
    return read_checked(folder / ENGINE_RECORD, EngineRecord, what="the record of an engine", then=then)


def _sidecar(folder: Path) -> EngineRecord:
    sidecar, path = folder / ENGINE_RECORD, folder / ENGINE
    if not sidecar.is_file():
        raise WrongEngineError(f"expected the record of an engine in {sidecar}, found none; run the stage `engine`")
    record = read_sidecar(folder)
    if record.status != "built":
        raise WrongEngineError(f"expected an engine in {folder}, found that it was not built: {record.reason}")
    digest, expected = sha256(path) if path.is_file() else "no file", record.engine_sha256 or ""
    if digest != expected:
        raise WrongEngineError(
            f"expected {path} with the SHA-256 {expected[:12]}… that its sidecar states, found "
            f"{digest[:12]}…; copy both files again, or build the engine again"
        )
    return record


def _check_library(record: EngineRecord) -> None:
    library, built = record.library, record.version or ""
    try:
        here = importlib.import_module(library).__version__
    except ImportError as error:
        raise WrongEngineError(
            f"expected {library} {built}, which built the engine, found none that can be imported; install it, or "
            "build the engine with the library that is here"
        ) from error
    if here == built:
        return
    if not record.version_compatible:
        raise WrongEngineError(
            f"expected {library} {built}, which built the engine, found {here}; install that version, or build the "
            "engine again"
        )
    try:
        then, now = Version(built), Version(here)
    except InvalidVersion as error:
        raise WrongEngineError(
            f"expected the versions of the {library} that built the engine and of the one here, found {built!r} and "
            f"{here!r}; build the engine again"
        ) from error
    if (then.major, now.major) not in ACROSS and (then.major != now.major or now < then):
        raise WrongEngineError(
            f"expected a {library} that reads version-compatible engines of {built}, a later {then.major}.x, found "
            f"{here}; install one, or build the engine again"
        )


def _check_machine(record: EngineRecord, here: Driver) -> None:
    cuda = cuda_major(record.library) or record.cuda
    if cuda and here.cuda[0] < cuda:
        raise NoDriverError(
            f"expected a driver for CUDA {cuda}, which {record.library} is made with, found one for CUDA "
            f"{here.cuda[0]}.{here.cuda[1]}; update the driver"
        )
    own, targets = here.gpus[0].compute_capability, record.compute_capabilities
    above_ampere = record.hardware_compatibility == "ampere_plus" and int(own.split(".")[0]) >= 8
    if own not in targets and not above_ampere:
        supported = known_capabilities(importlib.import_module(record.library))
        lacking = supported is not None and own not in supported
        raise OtherGpuError(
            f"expected a GPU of compute capability {' or '.join(targets)}, which the engine is for, found "
            f"{here.gpus[0].name} with {own}; "
            + (
                f"{record.library} builds none for it: take `library: tensorrt` of the engine"
                if lacking
                else f"build the engine with `compute_capabilities: [{own}]`"
            )
        )


def _ask_library(record: EngineRecord, path: Path) -> None:
    trt = importlib.import_module(record.library)
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, why = runtime.get_engine_validity(path.read_bytes())
    if validity == trt.EngineValidity.INVALID:
        causes = [n for n, flag in trt.EngineInvalidityDiagnostics.__members__.items() if int(flag) & int(why)]
        raise WrongEngineError(
            f"expected an engine that {record.library} takes, found that it says {' and '.join(causes) or why} of "
            f"{path}; build the engine again on this machine"
        )


class Engine:
    """An engine that is loaded and ready, under Polygraphy's `TrtRunner`.

    Args:
        runner: an active `polygraphy.backend.trt.TrtRunner`.
        shape: height, width and channels of an image.
        smallest, largest: images of one batch, as the engine's profile says.
    """

    def __init__(self, runner: Any, *, shape: tuple[int, int, int], smallest: int, largest: int) -> None:
        self._runner, self.shape, self._smallest, self._largest = runner, shape, smallest, largest

    def with_copies(self, images: NDArray[np.uint8]) -> Callable[[], Any]:
        """A call from a batch `[B, H, W, C]` in the host's memory to logits there, as an application sees it."""
        return lambda: self._runner.infer({"image": images}, check_inputs=False)

    def compute_only(self, images: NDArray[np.uint8]) -> Callable[[], Any]:
        """A call with the images on the GPU already, where the logits stay; it returns when they are there."""
        device_array = importlib.import_module("polygraphy.cuda").DeviceArray
        there = device_array(shape=images.shape, dtype=images.dtype)
        there.copy_from(images)
        return lambda: self._runner.infer({"image": there}, check_inputs=False, copy_outputs_to_host=False)

    def call(self, images: NDArray[np.uint8], way: str = "") -> Callable[[], Any]:
        """`with_copies`, or `compute_only` by this name."""
        return self.compute_only(images) if way == "compute only" else self.with_copies(images)

    def values(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.floating]]:
        """Every output of the engine by name, for one batch within the profile."""
        # The runner uses the memory of its answer again.
        return {name: np.array(value) for name, value in self.with_copies(images)().items()}

    def logits(self, images: Images) -> NDArray[np.float32]:
        """Any number of images, uint8 `[N, H, W, C]` -> float32 `[N, classes]`, in batches of the profile."""
        parts = []
        for start in range(0, len(images), self._largest):
            batch = np.asarray(images[start : start + self._largest])
            count = len(batch)
            if count < self._smallest:
                batch = np.concatenate([batch, np.repeat(batch[-1:], self._smallest - count, axis=0)])
            parts.append(self.values(batch)["logits"][:count])
        return np.concatenate(parts)


@contextmanager
def open_engine(folder: Path, *, onnx: Path | None = None) -> Iterator[Engine]:
    """Load the engine in `folder` after `check_engine` has let it pass.

    Args:
        onnx: the graph it was built from; a weight-stripped engine gets its weights from there.

    Raises:
        WrongEngineError, NoDriverError: see `check_engine`; or the weights are not to be had.
        UserError: Polygraphy is missing, or the library could not load the engine in spite of all.
    """
    record = check_engine(folder)
    weights = _weights(record, onnx)
    # Read by Polygraphy once, when it is imported: the engines of one process come from one library.
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if record.library == "tensorrt_rtx" else "0"
    try:
        polygraphy = importlib.import_module("polygraphy.backend.trt")
        failed = importlib.import_module("polygraphy.exception").PolygraphyException
    except ImportError as error:
        raise UserError("expected the library polygraphy, found none; run `pip install 'rsd[engine]'`") from error
    try:
        engine = polygraphy.EngineFromBytes((folder / ENGINE).read_bytes())()
        if weights is not None:
            _refit(record.library, engine, weights)
        runner = polygraphy.TrtRunner(engine)
        runner.activate()
    except failed as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]  # Polygraphy's log stands before it
        raise UserError(
            f"expected {record.library} to load {folder / ENGINE}, found: {cause}; look at the GPU's free "
            "memory, or build the engine again"
        ) from error
    try:
        (height, width, channels), (least, most) = record.inputs[0].shape[1:], record.batches
        yield Engine(runner, shape=(height, width, channels), smallest=least, largest=most)
    finally:
        runner.deactivate()


def _weights(record: EngineRecord, onnx: Path | None) -> bytes | None:
    """The graph that a weight-stripped engine is filled from; None for an engine with weights."""
    if not record.weights_stripped:
        return None
    if onnx is None or not onnx.is_file():
        raise WrongEngineError(
            f"expected the ONNX file that the weight-stripped engine was built from, found {onnx or 'none'}; put it "
            "beside the engine"
        )
    if sha256(onnx) != record.onnx_sha256:
        raise WrongEngineError(
            f"expected the ONNX file that the weight-stripped engine was built from, found another one in {onnx}; "
            "take the one that was shipped with the engine"
        )
    return onnx.read_bytes()


def _refit(library: str, engine: Any, graph: bytes) -> None:
    trt = importlib.import_module(library)
    logger = trt.Logger(trt.Logger.ERROR)
    refitter = trt.Refitter(engine, logger)
    if not trt.OnnxParserRefitter(refitter, logger).refit_from_bytes(graph) or not refitter.refit_cuda_engine():
        raise WrongEngineError(
            "expected an ONNX file whose weights fit the weight-stripped engine, found that they do not; build the "
            "engine again"
        )
