"""A trained student as one ONNX graph: raw uint8 pixels in, float32 logits out, and nothing else inside."""

import copy
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from google.protobuf import text_format
from onnx import TensorProto, helper
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import Field, field_validator
from torch import nn

from rsd.export.half import to_half
from rsd.export.parity import Gates, Precision, session_of
from rsd.export.quantize import Int8Options, calibrated, quantized
from rsd.machine.errors import UserError
from rsd.machine.files import written_aside
from rsd.machine.options import Options
from rsd.models.timm_model import RawPixels
from rsd.sources.images import Images

# Top-level names of the module that training wraps around a student: such a state is not a plain student's.
SCAFFOLDING = {"aad", "projection", "student"}
INT8_OPSET = 20
"""From 21 on QuantizeLinear names its type; ONNX Runtime 1.32 keeps that name where it turns the int8 of a transformer
into uint8, and then refuses its own graph."""
NO_LICENSE = "NOASSERTION"
"""What SPDX writes where nobody has said."""


class ExportOptions(Options):
    """What is shipped, and how strict its checks are."""

    opset: int = Field(20, ge=18, le=23)
    ir_version: int = Field(10, ge=8, le=13)
    """onnx's own default is newer than what older runtimes read."""
    license: str = NO_LICENSE
    """Of the shipped weights, an SPDX expression; written into every file."""
    gates: Gates = Gates()
    int8: Int8Options = Int8Options()

    @field_validator("license")
    @classmethod
    def _spdx(cls, license: str) -> str:
        if license == NO_LICENSE:
            return license
        try:
            return canonicalize_license_expression(license)
        except InvalidLicenseExpression as error:
            raise ValueError(
                f"expected an SPDX expression, such as Apache-2.0 or LicenseRef-Ours, or {NO_LICENSE} where none is "
                f"stated, found {license!r}"
            ) from error


class Traced(NamedTuple):
    """A student as a graph."""

    proto: onnx.ModelProto
    """fp32, checked, with the shapes and types of all values."""
    program: torch.export.ExportedProgram
    """What it was made from: the same values under the same names, in PyTorch."""


def export_onnx(
    model: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    image_shape: tuple[int, int, int],
    classes: int,
    precision: Precision,
    opset: int,
    ir_version: int,
    metadata: dict[str, str],
    path: Path,
    calibration: Images | None = None,
    int8: Int8Options | None = None,
) -> None:
    """Write `model` as a checked ONNX file: `trace`, the precision, `save`. The same arguments give the same bytes.

    Args:
        calibration: images that the ranges of int8 are taken from, uint8 `[N, H, W, C]`; needed for int8 only.
        int8: how.

    Raises:
        UserError: as `trace` and `save`; the model does not fit the precision.
    """
    proto = trace(
        model, mean=mean, std=std, image_shape=image_shape, classes=classes, opset=opset, ir_version=ir_version
    ).proto
    if precision == "fp16":
        proto = to_half(proto)
    elif precision == "int8":
        if calibration is None:
            raise UserError("expected images to calibrate an int8 graph with, found none; give some of the training's")
        proto = quantized(proto, calibrated(proto, calibration, int8 or Int8Options()))
    save(checked(proto), path, metadata=metadata)


def trace(
    model: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    image_shape: tuple[int, int, int],
    classes: int,
    opset: int,
    ir_version: int,
) -> Traced:
    """`model` as one fp32 graph.

    The graph maps `image`, uint8 `[N, H, W, C]` of raw pixels, to `logits`, float32 `[N, classes]`, for any
    N. Normalisation is inside and stays float32 in every precision.

    Args:
        model: the plain student, without any training-only module.
        mean, std: per channel, of pixels scaled to 0..1.
        image_shape: (H, W, C).

    Raises:
        UserError: the model holds a training-only module, cannot be exported, or is not the model that was given
            in size or shape.
    """
    _refuse_scaffolding(model)
    plain = copy.deepcopy(model).cpu().float().eval()
    proto, program = _exported(RawPixels(plain, mean, std).eval(), image_shape, opset)
    _strip(proto)
    _check_size(proto, plain)
    proto.ir_version = ir_version
    proto = checked(proto)
    _check_interface(proto, image_shape, classes)
    return Traced(proto, program)


def checked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the shapes and types of all its values, after onnx's own full check.

    Raises:
        UserError: onnx finds a fault.
    """
    proto = copy.deepcopy(proto)
    # Written anew by shape inference, with the types of this graph.
    del proto.graph.value_info[:]
    try:
        onnx.checker.check_model(proto, full_check=True)
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"expected a valid ONNX graph, found a fault: {_first_line(error)}; choose another opset or precision"
        ) from error


def save(proto: onnx.ModelProto, path: Path, *, metadata: dict[str, str]) -> None:
    """Write a checked graph, once ONNX Runtime has loaded it.

    Args:
        metadata: put into the file's `metadata_props`; texts only, JSON for what is not a text.

    Raises:
        UserError: the file would hold a path of this machine, or ONNX Runtime does not take it.
    """
    proto = copy.deepcopy(proto)
    helper.set_model_props(proto, dict(sorted(metadata.items())))
    _refuse_paths(proto)
    content = proto.SerializeToString(deterministic=True)
    try:
        session_of(content)
    except Exception as error:  # onnxruntime raises types of its own, which it does not export
        raise UserError(
            f"expected a graph that ONNX Runtime loads, found a fault: {_first_line(error)}; choose another opset, "
            "IR version or precision"
        ) from error
    with written_aside(path) as aside:
        aside.write_bytes(content)


def _refuse_scaffolding(model: nn.Module) -> None:
    for name in model.state_dict():
        if name.split(".")[0] in SCAFFOLDING:
            raise UserError(
                f"expected a plain student to export, found '{name}', which only training needs; "
                "export the weights that `distill` saved"
            )


def _exported(
    model: nn.Module, image_shape: tuple[int, int, int], opset: int
) -> tuple[onnx.ModelProto, torch.export.ExportedProgram]:
    example = torch.zeros(2, *image_shape, dtype=torch.uint8)  # a batch of 1 would be taken as fixed
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"torch.onnx could not export this model: {_first_line(error)}; choose another opset or student"
        ) from error
    assert program is not None  # None comes from the exporter that preceded dynamo
    assert program.exported_program is not None
    proto = program.model_proto
    found = [(entry.domain, entry.version) for entry in proto.opset_import]
    if found != [("", opset)]:  # the exporter keeps its own opset where it cannot convert, and says so only in a log
        raise UserError(
            f"expected a graph in opset {opset} of ONNX, found {found}: the exporter cannot write {opset}; "
            "choose an opset from 18 to 23"
        )
    return proto, program.exported_program


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices off the terminal; what matters of them comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what the exporter says of its own work: stack traces (absolute paths), scopes, doc strings."""
    graph = proto.graph
    parts = [proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *proto.functions]
    for function in proto.functions:
        parts += [*function.node, *function.value_info]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def _check_size(proto: onnx.ModelProto, model: nn.Module) -> None:
    """The graph may hold no more numbers than the model: its parameters and buffers, and a few constants.

    It may hold fewer, since batch norms melt into convolutions. A table of relative positions, as in Swin,
    is written out through its integer index.
    """
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    expected = sum(tensor.numel() for tensor in tensors)
    for module in model.modules():
        widths = [p.shape[-1] for p in module.parameters(recurse=False) if p.ndim]
        index = [b.numel() for b in module.buffers(recurse=False) if not b.is_floating_point()]
        expected += sum(index) * max(widths, default=0)
    found = sum(int(np.prod(t.dims)) for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT)
    if found > 1.01 * expected + 1000:
        raise UserError(
            f"expected at most {expected:,} numbers in the exported graph, as in the plain model, found "
            f"{found:,}; export a model whose forward pass uses its own weights only"
        )


def _check_interface(proto: onnx.ModelProto, image_shape: tuple[int, int, int], classes: int) -> None:
    found = [
        (value.name, value.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in _dims(value)])
        for value in [*proto.graph.input, *proto.graph.output]
    ]
    expected = [
        ("image", TensorProto.UINT8, ["N", *image_shape]),
        ("logits", TensorProto.FLOAT, ["N", classes]),
    ]
    if found != expected:
        raise UserError(
            f"expected a graph from image, uint8 {['N', *image_shape]}, to logits, float32 {['N', classes]}, "
            f"found (name, type, shape) {found}; check the number of classes and the image size"
        )


def _dims(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    return value.type.tensor_type.shape.dim


def _refuse_paths(proto: onnx.ModelProto) -> None:
    """No folder of this machine may be named anywhere in the file."""
    skeleton = copy.deepcopy(proto)
    for tensor in skeleton.graph.initializer:
        tensor.ClearField("raw_data")  # weights are no text
    text = text_format.MessageToString(skeleton, as_utf8=True).replace("\\n", "\n")
    for folder in (Path.cwd(), Path.home(), Path(sys.prefix), Path(__file__).resolve().parents[2]):
        # Whole components: where a machine works in /app, neither "fruit/apple" nor "fruit/app" is a path of it.
        named = rf"(?<![\w.-]){re.escape(str(folder))}(?![\w.-])"
        if folder != Path(folder.anchor) and re.search(named, text):
            raise UserError(
                f"expected no path of this machine in the exported file, found {folder}; take it out of the metadata"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
