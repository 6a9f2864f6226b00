"""A file in int8 for one runtime: the form that suits it is chosen by what it computes, never by the clock."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from rsd.export import runtimes
from rsd.export.graph import checked, save
from rsd.export.placement import TENSORRT, cpu_forms
from rsd.export.quantize import Calibrated, Int8Options, calibrated, quantized
from rsd.export.run_graph import logits_in
from rsd.machine.errors import UserError, first_line
from rsd.sources.images import ArrayImages, Images, sample_indices

JUDGES = 32  # calibration images on which the forms are compared
CLOSE = 0.005  # of mean cosine: a faster form may be so much further from fp32
CALIBRATIONS: tuple[Literal["min_max", "percentile"], ...] = ("min_max", "percentile")
"""That `write_int8` tries, in this order."""


def write_int8(source: Path, target: Path, images: NDArray[np.uint8], *, runs_on: str = "onnxruntime") -> None:
    """Write an exported graph in int8, for one runtime; the same arguments give the same bytes.

    Ranges hold all that a value was for the images. Where that leaves the logits far from fp32's, ranges without the
    outermost values are tried, and the nearer ones taken.

    Args:
        source: an ONNX file in fp32 as `rsd.export.trace` makes it: `image` uint8 `[N, H, W, C]` to `logits`.
        target: the file to write.
        images: to calibrate with, uint8 `[N, H, W, C]`; all are used.
        runs_on: a runtime of `rsd.export.runtimes`: `onnxruntime`, `openvino`, `tensorrt` ...; two may get the same
            bytes. OpenVINO 2026.4 must be given a batch size (`model.reshape`): with an open one it computes int8
            convolutions wrongly.

    Raises:
        UserError: the source or the images are not of this form, the runtime is not known or not installed, or the
            graph cannot be computed in int8.
    """
    if runs_on not in runtimes.names():
        raise UserError(f"expected a runtime out of {', '.join(runtimes.names())}, found {runs_on!r}")
    _check_here(runs_on)
    try:
        proto = onnx.load(source)
        (image,) = proto.graph.input
    except (OSError, DecodeError, ValueError) as error:
        raise UserError(
            f"expected {source} to be an ONNX file of one image input, found {first_line(error)}"
        ) from error
    shape = tuple(dimension.dim_value for dimension in image.type.tensor_type.shape.dim[1:])
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise UserError(
            f"expected images uint8 [N, {', '.join(map(str, shape))}] with N > 0, found {images.dtype} "
            f"{list(images.shape)}; resize them as the graph was made for"
        )
    graph = _closest(proto, images, runs_on=runs_on)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    save(graph, target, metadata=metadata | {"precision": "int8"})


def _closest(proto: onnx.ModelProto, images: NDArray[np.uint8], *, runs_on: str) -> onnx.ModelProto:
    judges = images[sample_indices(len(images), JUDGES)]
    exact = logits_in(runs_on, proto, judges)
    attempts: list[tuple[float, onnx.ModelProto]] = []
    for calibration in CALIBRATIONS:
        options = Int8Options(calibration=calibration, calibration_images=len(images))
        graph = checked(quantized(proto, chosen(proto, ArrayImages(images), options, runs_on=runs_on)))
        attempts.append((mean_cosine(exact, logits_in(runs_on, graph, judges)), graph))
        if attempts[-1][0] >= 1 - CLOSE:
            break
    return max(attempts, key=lambda attempt: attempt[0])[1]


def chosen(
    proto: onnx.ModelProto, images: Images, options: Int8Options, *, runs_on: str, threads: int = 1
) -> Calibrated:
    """Calibrate in the form that suits the graph and the runtime.

    The faster form for this kind of graph is taken unless another lies closer to fp32 by more than `CLOSE` on the
    calibration images. Each is run there with batches of 1 and 4 first.

    Args:
        images: as of `rsd.export.quantize.calibrated`.
        runs_on: the runtime.

    Raises:
        UserError: the runtime is not installed; no form can be made of the graph, or run.
    """
    if runtimes.get(runs_on).builds:
        return calibrated(proto, images, options, TENSORRT, threads=threads)
    _check_here(runs_on)
    judges = images[sample_indices(len(images), min(options.calibration_images, JUDGES))]
    exact = logits_in(runs_on, proto, judges, threads=threads)
    closeness: list[tuple[float, Calibrated]] = []
    causes = []
    for form in cpu_forms(proto):
        try:
            ranges = calibrated(proto, images, options, form, threads=threads)
            graph = checked(quantized(proto, ranges))
            for few in (judges[:1], judges[:4]):
                logits_in(runs_on, graph, few, threads=threads)
            near = mean_cosine(exact, logits_in(runs_on, graph, judges, threads=threads))
            if not np.isfinite(near):
                raise UserError("its logits are not finite")
        except Exception as error:  # the quantiser's and the runtimes' exceptions have no type in common
            causes.append(f"{form.name}: {first_line(error)}")
            continue
        closeness.append((near, ranges))
        if near >= 1 - CLOSE:  # no other can be closer by more
            break
    if not closeness:
        raise UserError(f"expected int8 in a form that {runs_on} runs, found none ({'; '.join(causes)}); ship fp32")
    best = max(near for near, _ in closeness)
    return next(ranges for near, ranges in closeness if near >= best - CLOSE)


def _check_here(runs_on: str) -> None:
    runtime = runtimes.get(runs_on)
    if not runtime.builds and (reason := runtime.missing()):
        raise UserError(f"expected a runtime that is here, found {reason}; pip install 'rsd[{runs_on}]'")


def mean_cosine(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean over the images of the cosine between two `[N, classes]` logits."""
    reference, logits = reference.astype(np.float64), logits.astype(np.float64)
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(logits, axis=1)
    return float(np.mean((reference * logits).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)))
