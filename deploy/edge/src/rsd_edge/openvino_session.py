"""An ONNX file in OpenVINO, on the CPU."""

import importlib
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from rsd_edge.errors import EdgeError

# Its import would tell Intel of itself. Without this package, which it can do without, it tells nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class OpenVinoError(Exception):
    """What OpenVINO raised, which has no class of its own, cut to the last line: the reason."""


class OpenVinoSession:
    """The file as it is for larger batches, and a form for one image, which is faster; each is compiled when needed.

    Several threads may call `logits` at the same time: each of them has a request of its own.
    """

    provider = "CPU"

    def __init__(self, path: Path, threads: int, shape: tuple[int, int, int]) -> None:
        try:
            openvino = importlib.import_module("openvino")
        except ImportError as error:
            raise EdgeError(
                f"expected OpenVINO on this device, found: {error}; run `pip install 'rsd-edge[openvino]'`"
            ) from error
        self._core = openvino.Core()
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # its default on some processors is less
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the device does other work, too
        }
        self._shape = shape
        self._lock = threading.Lock()
        self._compiled: dict[str, Any] = {}
        """The form for `one` image, and the one for `any` number."""
        self._requests = threading.local()  # by the same key
        try:
            self._any = self._core.read_model(path)
            self._of("one")
        except Exception as error:  # only RuntimeError is usual
            raise EdgeError(
                f"expected OpenVINO {openvino.__version__.partition('-')[0]} to load {path.parent.name}/{path.name}, "
                f"found: {_reason(error)}; install a newer openvino, or make the bundle with another export.opset"
            ) from error

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Float32 `[N, classes]` of uint8 `[N, H, W, C]`."""
        form = "one" if len(images) == 1 else "any"
        try:
            of_thread = self._requests.__dict__
            if form not in of_thread:
                of_thread[form] = self._of(form).create_infer_request()
            # The logits are a copy, which the next inference does not overwrite.
            logits: np.ndarray = of_thread[form].infer([images], share_inputs=True)["logits"]
        except MemoryError:
            raise
        except Exception as error:
            raise OpenVinoError(_reason(error)) from error
        return logits

    def _of(self, form: str) -> Any:
        with self._lock:
            if form not in self._compiled:
                model = self._any
                if form == "one":
                    model = model.clone()
                    model.reshape([1, *self._shape])
                self._compiled[form] = self._core.compile_model(model, "CPU", self._settings)
            return self._compiled[form]


def _reason(error: Exception) -> str:
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
