"""OpenVINO on the CPU. It reads the same ONNX files as ONNX Runtime."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsd.export.runtimes.base import Runtime

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsd.sources.images import Images


def _library() -> Any:
    # Its import tells Intel of itself, but not where this package is missing, which it can do without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


@cache
def _core() -> Any:
    """One for the whole process. Each gives the main thread another stack for its signals and, when it ends, the one
    from before (2026.4): where two end in the order in which they began, that is memory which is free by then, and the
    next signal ends the process."""
    return _library().Core()


class OpenVinoSession:
    """A graph with one uint8 input `[N, H, W, C]`; see `rsd.export.runtimes.base.InferenceSession`."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.core = _core()
        self.path = path
        # Without the hint a CPU that knows bf16 computes fp32 files in it. Without a stream the caller's thread
        # computes, which is faster, and a forked child does not wait for a thread that its parent alone has.
        streams = 0 if threads == 1 else 1
        self.config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams}
        _, *self._shape = (dimension.get_length() for dimension in self._model(1).input().partial_shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self._shape
        return height, width, channels

    def logits(self, images: "Images", *, batch: int = 16) -> "NDArray[np.float32]":
        batch = min(batch, len(images))
        run = self._compiled(batch)
        parts = []
        for start in range(0, len(images), batch):
            part = np.asarray(images[start : start + batch])
            whole = np.concatenate([part, part[-1:].repeat(batch - len(part), axis=0)])  # the last batch may be short
            parts.append(run(whole)[0][: len(part)])
        return np.concatenate(parts)

    def call(self, images: "NDArray[np.uint8]", way: str = "") -> Callable[[], Any]:
        request = self._compiled(len(images)).create_infer_request()
        return partial(request.infer, [images], share_inputs=True)

    def _model(self, batch: int) -> Any:
        model = self.core.read_model(self.path)
        _, *shape = model.input().partial_shape
        model.reshape([batch, *shape])
        return model

    def _compiled(self, batch: int) -> Any:
        """For one batch size: with an open one OpenVINO is slower, and 2026.4 computes int8 convolutions wrongly."""
        return self.core.compile_model(self._model(batch), "CPU", self.config)


class OpenVino(Runtime):
    titles = {"": "OpenVINO"}  # noqa: RUF012

    def load(self) -> str:
        return str(_library().__version__).partition("-")[0]

    @contextmanager
    def open(self, path: Path, *, threads: int = 1, onnx: Path | None = None) -> Iterator[OpenVinoSession]:
        yield OpenVinoSession(path, threads)


RUNTIME = OpenVino()
