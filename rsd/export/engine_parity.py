"""What an engine says of real images beside what its ONNX graph says, and where the two part."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import load

from rsd.export import precisions
from rsd.export.divergence import first_divergence, graph_values, in_words
from rsd.export.engine import OtherGpuError, open_engine
from rsd.export.parity import NEAR_TIE, compare
from rsd.export.runtimes._tensorrt import NO_DEVICE
from rsd.export.tensorrt import EngineOptions, build
from rsd.machine.cuda import NoDriverError
from rsd.machine.errors import UserError
from rsd.run.names import ENGINE
from rsd.run.records import Comparison
from rsd.sources.images import Images


def engine_parity(
    folder: Path,
    *,
    onnx: Path,
    images: Images,
    labels: NDArray[np.integer],
    reference: NDArray[np.float32],
    near_tie: float = NEAR_TIE,
    what: str = "engine",
) -> Comparison | str:
    """How far the engine strays from its ONNX graph on real images.

    Args:
        images: uint8 `[N, H, W, C]`, with labels `[N]`.
        reference: the ONNX graph's logits `[N, classes]` of them.
        near_tie, what: see `compare`.

    Returns:
        The record, or why there is none on this machine: "not measured: ...".

    Raises:
        UserError: the engine says what cannot be compared (see `compare`), or could not be loaded on a GPU that it
            is for.
    """
    try:
        with open_engine(folder, onnx=onnx) as engine:
            return compare(reference, engine.logits(images), labels, near_tie=near_tie, what=what)
    except NoDriverError:
        return NO_DEVICE
    except OtherGpuError as error:  # which is what tensorrt_rtx was asked to build for
        return f"not measured: {error}"


def engine_parting(
    onnx: Path, images: NDArray[np.uint8], options: EngineOptions, *, precision: str, folder: Path
) -> str:
    """Where an engine that strays parts from its ONNX graph, as a clause for a sentence.

    A second engine is built, all of whose values can be read, and compared with ONNX Runtime value by value.

    Args:
        images: that it strays for, uint8 `[N, H, W, C]`.
        options: what the engine was built with.
        folder: an empty one for the second engine.
    """
    count = min(max(len(images), options.min_batch), options.max_batch)
    batch = np.resize(images, (count, *images.shape[1:]))  # which repeats them
    plain = options.model_copy(update={"strip_weights": False})
    proto = load(onnx)
    expected = graph_values(proto, batch)
    try:
        record = build(onnx, folder / ENGINE, plain, precision=precision, every_value=True)
        record.write(folder)
        with open_engine(folder) as engine:
            values = engine.values(batch)
    except UserError as error:
        return f"the first node where the two part could not be found: {error}"
    computed = {name: values[name] for name in expected if name in values}
    return in_words(first_divergence(expected, computed, precisions.get(precision).tolerance), proto)
