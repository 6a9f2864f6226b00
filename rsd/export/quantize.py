"""An exported graph in int8, by ONNX Runtime's static quantiser: Q/DQ pairs around what is computed in integers.

Weights are symmetric and per channel; the rest is `rsd.export.placement`'s.
"""

import contextlib
import copy
import io
import logging
import math
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from pydantic import Field

from rsd.export.placement import PRODUCTS, TENSORRT, Form, cubic_from_float, kept_in_float, signed
from rsd.export.run_graph import logits_in
from rsd.export.runtimes.onnxruntime import session_options
from rsd.machine.errors import UserError
from rsd.machine.options import Options
from rsd.run.records import Harm
from rsd.sources.images import Images, sample_indices

STEP = 0.05  # share of the nodes that each further try keeps in float
BATCH = 16  # of calibration: all values between the layers are held for so many images


class Int8Options(Options):
    """`export.int8` of params.yaml."""

    calibration: Literal["min_max", "percentile", "entropy"] = "min_max"
    """How the range of a value is taken from what it was for the calibration images: all of it, all but the
    outermost, or what keeps most of the information."""
    calibration_images: int = Field(256, ge=1, le=1_000_000)
    """Drawn from the training split, as they are served without augmentation."""
    percentile: float = Field(99.99, gt=50, le=100)
    """Share of a value's magnitudes that its range holds, in per cent; of `calibration: percentile`."""
    least_share: float = Field(0.5, ge=0, le=1)
    """Where the gate fails, the nodes that hurt most go back to float, until it passes or this share is left."""
    reduce_range: bool = False
    """Weights of 7 bits, for x86 CPUs without VNNI, whose sums of 8-bit products overflow."""


class Calibrated(NamedTuple):
    """What quantising needs to know, found once for any number of graphs."""

    values: TensorsData
    """The range of each value."""
    nodes: list[str]
    """Names of all products that can be quantised, in the graph's order."""
    form: Form
    options: Int8Options


def calibrated(
    proto: onnx.ModelProto, images: Images, options: Int8Options, form: Form = TENSORRT, *, threads: int = 1
) -> Calibrated:
    """Take the range of every value that is to be quantised.

    Args:
        proto: an fp32 graph of `rsd.export.trace.trace`.
        images: of the training split; `options.calibration_images` of them are used.

    Raises:
        UserError: the graph has nothing that can be quantised.
    """
    kept = kept_in_float(proto, form)
    nodes = [node.name for node in proto.graph.node if node.op_type in PRODUCTS and node.name not in kept]
    if not nodes:
        raise UserError(
            f"expected a graph with one of {', '.join(PRODUCTS)} to make int8, found none; ship fp32 or fp16"
        )
    method, more = {
        "min_max": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": options.percentile}),
        # With onnxruntime's own 128 bins entropy has one candidate only, the whole range.
        "entropy": (CalibrationMethod.Entropy, {"num_bins": 512, "symmetric": form.symmetric}),
    }[options.calibration]
    sample = images[sample_indices(len(images), options.calibration_images)]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        source, augmented = Path(folder) / "graph.onnx", Path(folder) / "augmented.onnx"
        onnx.save(proto, source)
        calibrator = create_calibrator(
            source, [*form.operators], str(augmented), calibrate_method=method, extra_options=more
        )
        # Its own session takes as many threads as there are cores: other machines, other bits.
        calibrator.infer_session = ort.InferenceSession(
            str(augmented), session_options(threads=threads, optimised=False), providers=["CPUExecutionProvider"]
        )
        for start in range(0, len(sample), BATCH):
            calibrator.collect_data(_Reader(sample[start : start + BATCH]))
        return Calibrated(calibrator.compute_data(), nodes, form, options)


class _Reader(CalibrationDataReader):
    """One batch."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.batches: Iterator[dict[str, NDArray[np.uint8]]] = iter([{"image": np.ascontiguousarray(images)}])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.batches, None)


def quantized(proto: onnx.ModelProto, ranges: Calibrated, *, in_float: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of the graph in int8, not checked yet; nodes `in_float` stay as they are, beside those of the form."""
    form = ranges.form
    quantizer = QDQQuantizer(
        copy.deepcopy(proto),
        per_channel=True,
        reduce_range=ranges.options.reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=form.activations,
        tensors_range=ranges.values,
        nodes_to_quantize=[],
        nodes_to_exclude=[*in_float, *sorted(kept_in_float(proto, form))],
        op_types_to_quantize=[*form.operators],
        extra_options={
            "ActivationSymmetric": form.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": form.int32_biases,
            "OpTypesToExcludeOutputQuantization": [*form.float_results],
            "TensorQuantOverrides": {
                name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in sorted(signed(proto, form))
            },
        },
    )
    with _quiet():
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    result.ir_version = proto.ir_version
    cubic_from_float(result)
    _logits_in_float(result)
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser warns of each gain of a LayerNormalization, which has no channels to quantise by."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _logits_in_float(proto: onnx.ModelProto) -> None:
    """Take the Q/DQ pair off the logits: rounded to 255 steps, near classes would become equal."""
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    last = producers["logits"]
    if last.op_type != "DequantizeLinear":
        return
    rounded = producers[last.input[0]]
    source = producers[rounded.input[0]]
    source.output[:] = ["logits" if name == rounded.input[0] else name for name in source.output]
    for node in (last, rounded):
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    initializers = [copy.deepcopy(tensor) for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def harms(
    proto: onnx.ModelProto, ranges: Calibrated, images: NDArray[np.uint8], *, runs_on: str, threads: int = 1
) -> list[Harm]:
    """Measure every node that can be quantised, with all others in float; the most harmful first.

    Args:
        images: uint8 `[N, H, W, C]`, not of the test split: these choose, the test split judges.
        runs_on: the runtime.
    """
    exact = logits_in(runs_on, proto, images, threads=threads)
    spread = float(exact.std()) or 1.0
    operators = {node.name: node.op_type for node in proto.graph.node}
    measured = []
    for name in ranges.nodes:
        alone = quantized(proto, ranges, in_float=[other for other in ranges.nodes if other != name])
        logits = logits_in(runs_on, alone, images, threads=threads)
        error = float(np.sqrt(np.square(logits - exact).mean())) / spread
        measured.append(Harm(node=name, operator=operators[name], error=error))
    return sorted(measured, key=lambda harm: -harm.error)


def tries(count: int, least_share: float) -> list[int]:
    """How many of `count` nodes to keep in float, try after try; at least `least_share` of them stay int8."""
    most = math.floor((1 - least_share) * count + 1e-9)
    step = max(1, round(STEP * count))
    return [*range(step, most, step), most] if most else []
