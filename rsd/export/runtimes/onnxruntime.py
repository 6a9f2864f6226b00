"""ONNX Runtime on the CPU."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsd.export.runtimes.base import Runtime

if TYPE_CHECKING:
    import onnxruntime as ort
    from numpy.typing import NDArray

    from rsd.sources.images import Images


def session_options(*, threads: int = 1, optimised: bool = True) -> "ort.SessionOptions":
    """Of a run that gives the same bits on every machine with the same kernels."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; fp16 graphs on a CPU warn of every cast
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def session_of(
    model: Path | bytes, *, threads: int = 1, optimised: bool = True, without: Collection[str] = ()
) -> "ort.InferenceSession":
    """A graph from a file or its bytes; `without` names passes over the graph that are left out."""
    import onnxruntime as ort

    options = session_options(threads=threads, optimised=optimised)
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model, options, providers=providers, disabled_optimizers=[*without])


def logits_of(
    model: Path | bytes, images: "Images", *, batch: int = 128, threads: int = 1, without: Collection[str] = ()
) -> "NDArray[np.float32]":
    """Run an exported graph: uint8 `[N, H, W, C]` -> float32 `[N, classes]`."""
    return OnnxSession(model, threads, without).logits(images, batch=batch)


class OnnxSession:
    """A graph with one uint8 input `[N, H, W, C]`; see `rsd.export.runtimes.base.InferenceSession`."""

    def __init__(self, model: Path | bytes, threads: int = 1, without: Collection[str] = ()) -> None:
        self.session = session_of(model, threads=threads, without=without)

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.session.get_inputs()[0].shape[1:]
        return height, width, channels

    def logits(self, images: "Images", *, batch: int = 128) -> "NDArray[np.float32]":
        return np.concatenate(
            [
                self.session.run(["logits"], {"image": np.asarray(images[start : start + batch])})[0]
                for start in range(0, len(images), batch)
            ]
        )

    def call(self, images: "NDArray[np.uint8]", way: str = "") -> Callable[[], Any]:
        # A partial costs less per call than a function of our own would.
        return partial(self.session.run, None, {self.session.get_inputs()[0].name: images})


class OnnxRuntime(Runtime):
    titles = {"": "ONNX Runtime"}  # noqa: RUF012

    def load(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    @contextmanager
    def open(self, path: Path, *, threads: int = 1, onnx: Path | None = None) -> Iterator[OnnxSession]:
        yield OnnxSession(path, threads)


RUNTIME = OnnxRuntime()
