"""An ONNX file in OpenVINO, on the CPU."""

import importlib
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rsd_edge.errors import EdgeError

# Its import would tell Intel of itself. Without this package, which it can do without, it tells nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class OpenVinoError(Exception):
    """What OpenVINO raised, which has no class of its own, cut to the last line: the reason."""


class OpenVinoSession:
    """The file compiled for one image; a larger batch is taken image by image.

    With an open batch size OpenVINO is slower, and 2026.4 computes int8 convolutions wrongly.

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
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # its default on some processors is less
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": _streams(threads),
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the device does other work, too
        }
        self._requests = threading.local()
        try:
            core = _core(openvino)
            model = core.read_model(path)
            model.reshape([1, *shape])
            self._compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # only RuntimeError is usual
            raise EdgeError(
                f"expected OpenVINO {openvino.__version__.partition('-')[0]} to load {path.parent.name}/{path.name}, "
                f"found: {_reason(error)}; install a newer openvino, or make the bundle with another export.opset"
            ) from error

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Float32 `[N, classes]` of uint8 `[N, H, W, C]`."""
        try:
            if not hasattr(self._requests, "own"):
                self._requests.own = self._compiled.create_infer_request()
            # The logits are a copy, which the next inference does not overwrite.
            parts = [
                self._requests.own.infer([images[index : index + 1]], share_inputs=True)["logits"]
                for index in range(len(images))
            ]
        except MemoryError:
            raise
        except Exception as error:
            raise OpenVinoError(_reason(error)) from error
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _streams(threads: int) -> int:
    """Without a stream the caller's thread computes, which is faster, but alone. A stream has a thread of its own, for
    which a forked child would wait in vain if its parent had one: only processes that have not inferred fork here."""
    return 0 if threads == 1 else 1


@cache
def _core(openvino: Any) -> Any:
    """One for the whole process. Each gives the main thread another stack for its signals and, when it ends, the one
    from before (2026.4): where two end in the order in which they began, that is memory which is free by then, and the
    next signal ends the process."""
    return openvino.Core()


def _reason(error: Exception) -> str:
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
