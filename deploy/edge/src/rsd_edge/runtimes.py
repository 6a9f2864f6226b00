"""The runtimes of a device: which are here, which of them a bundle can use, and how a file is opened in one."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import numpy as np

from rsd_edge.errors import EdgeError
from rsd_edge.records import ONNXRUNTIME, OPENVINO, TITLES, Pair, Requires, version_of


class Session(Protocol):
    """A model file that is open. Several threads may call `logits` at the same time."""

    @property
    def provider(self) -> str:
        """What computes, as the runtime calls it, such as CUDAExecutionProvider."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Float32 `[N, classes]` of uint8 `[N, H, W, C]`; raises what the runtime raises."""


def installed(runtime: str) -> str | None:
    """The version of a runtime on this device, without loading it if that can be; None if it is not here."""
    if runtime == ONNXRUNTIME:  # vendors give its package other names
        return str(importlib.import_module("onnxruntime").__version__)
    try:
        return version(runtime) if runtime in TITLES else None
    except PackageNotFoundError:
        return None


def refusal(runtime: str, requires: Requires) -> str | None:
    """Why this device cannot use a runtime for a bundle, in a sentence; None if it can."""
    if runtime not in TITLES:
        return f"expected a runtime out of {', '.join(TITLES)}, found {runtime}; install a newer rsd-edge"
    here, oldest = installed(runtime), requires.openvino if runtime == OPENVINO else requires.onnxruntime
    if here is None:
        return f"expected {TITLES[runtime]} on this device, found none; run `pip install 'rsd-edge[{runtime}]'`"
    if oldest and version_of(here) < version_of(oldest):
        mend = "" if runtime == OPENVINO else ", or make the bundle with a lower export.opset or export.ir_version"
        return f"expected {TITLES[runtime]} {oldest} or newer, found {here}; install a newer one{mend}"
    return None


def open_session(
    pair: Pair, path: Path, *, threads: int, shape: tuple[int, int, int], engines: Path | None = None
) -> Session:
    """Open the ONNX file of a pair for images of `shape` `(H, W, C)`, with so many threads of the CPU.

    In the folder `engines` ONNX Runtime's TensorRT may build its engine.

    Raises:
        EdgeError: the runtime is not here or does not load the file.
    """
    if pair.runtime == OPENVINO:
        from rsd_edge.openvino_session import OpenVinoSession

        return OpenVinoSession(path, threads, shape)
    if pair.runtime == ONNXRUNTIME:
        from rsd_edge.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(path, pair.precision, threads, shape, engines)
    raise EdgeError(f"expected a runtime out of {', '.join(TITLES)}, found {pair.runtime}; install a newer rsd-edge")
