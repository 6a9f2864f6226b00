"""What a graph gives in a runtime, before it is a file."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from rsd.export import runtimes
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.machine.errors import UserError, first_line
from rsd.sources.images import Images

BATCH = 128  # images that are in memory at once
PASSES_OFF = ("WeightBiasQuantization",)
"""Passes that ONNX Runtime leaves out where it stands in for an engine: this one quantises the float biases that
TensorRT keeps, which costs as much again as int8 itself."""


def logits_in(runtime: str, proto: onnx.ModelProto, images: Images, *, threads: int = 1) -> NDArray[np.float32]:
    """Logits `[N, classes]` of images uint8 `[N, H, W, C]`, on this machine's CPU.

    Args:
        runtime: of `rsd.export.runtimes`; for one that builds engines ONNX Runtime stands in.

    Raises:
        UserError: another runtime than ONNX Runtime does not take the graph.
    """
    if runtime == runtimes.MAIN or runtimes.get(runtime).builds:
        without = () if runtime == runtimes.MAIN else PASSES_OFF
        return logits_of(proto.SerializeToString(), images, threads=threads, without=without)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(proto, path)
        try:
            with runtimes.get(runtime).open(path, threads=threads) as session:
                parts = [session.logits(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
            return np.concatenate(parts)
        except Exception as error:  # each runtime raises types of its own
            title = runtimes.get(runtime).titles[""]
            raise UserError(f"expected {title} to run the graph, found a fault: {first_line(error)}") from error
