"""A trained student as one ONNX graph: raw uint8 pixels in, float32 logits out, and nothing else inside."""

import copy
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import Field
from torch import nn

from rsd.errors import UserError
from rsd.export.parity import Gates, Precision
from rsd.files import written_aside
from rsd.models import RawPixels
from rsd.options import Options

# What normalisation consists of: these nodes, followed from the input on, stay float32 in an fp16 graph.
PIXEL_OPERATORS = {"Cast", "Div", "Mul", "Sub", "Add", "Transpose"}
# Top-level names of the module that training wraps around a student: such a state is not a plain student's.
SCAFFOLDING = {"aad", "projection", "student"}


class ExportOptions(Options):
    """What is shipped, and how strict its checks are."""

    method: str = "rsd"
    """Which method's student is shipped."""
    opset: int = Field(20, ge=18, le=23)
    ir_version: int = Field(10, ge=8, le=13)
    """onnx's own default is newer than what older runtimes read."""
    gates: Gates = Gates()


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
) -> None:
    """Write `model` as a checked ONNX file; the same arguments give the same bytes.

    The graph maps `image`, uint8 `[N, H, W, C]` of raw pixels, to `logits`, float32 `[N, classes]`, for any
    N. Normalisation is inside and always float32; with `precision="fp16"` the weights and everything
    between are fp16.

    Args:
        model: the plain student, without any training-only module.
        mean, std: per channel, of pixels scaled to 0..1.
        image_shape: (H, W, C).
        metadata: put into the file's `metadata_props`; texts only, JSON for what is not a text.

    Raises:
        UserError: the model holds a training-only module, cannot be exported, does not fit fp16, is not
            the model that was given in size or shape, or the file would hold a path of this machine.
    """
    _refuse_scaffolding(model)
    plain = copy.deepcopy(model).cpu().float().eval()
    proto = _traced(RawPixels(plain, mean, std).eval(), image_shape, opset)
    _strip(proto)
    _check_size(proto, plain)
    if precision == "fp16":
        _to_half(proto)
    proto.ir_version = ir_version
    helper.set_model_props(proto, dict(sorted(metadata.items())))
    try:
        onnx.checker.check_model(proto, full_check=True)
        proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"expected a valid {precision} ONNX graph, found a fault: {_first_line(error)}; "
            "choose another opset or precision"
        ) from error
    _check_interface(proto, image_shape, classes)
    _refuse_paths(proto)
    with written_aside(path) as aside:
        aside.write_bytes(proto.SerializeToString(deterministic=True))


def _refuse_scaffolding(model: nn.Module) -> None:
    for name in model.state_dict():
        if name.split(".")[0] in SCAFFOLDING:
            raise UserError(
                f"expected a plain student to export, found '{name}', which only training needs; "
                "export the weights that `distill` saved"
            )


def _traced(model: nn.Module, image_shape: tuple[int, int, int], opset: int) -> onnx.ModelProto:
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
    proto = program.model_proto
    found = [(entry.domain, entry.version) for entry in proto.opset_import]
    if found != [("", opset)]:  # the exporter keeps its own opset where it cannot convert, and says so only in a log
        raise UserError(
            f"expected a graph in opset {opset} of ONNX, found {found}: the exporter cannot write {opset}; "
            "choose an opset from 18 to 23"
        )
    return proto


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
    # Written anew by shape inference, with the types of the final graph.
    del graph.value_info[:]


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


def _to_half(proto: onnx.ModelProto) -> None:
    """Turn weights and computation into fp16, in place; pixels, normalisation and logits keep their types.

    onnxconverter-common is not used, because it rounds the mean and std too and moves small weights.
    """
    graph = proto.graph
    pixels, steps = {"image"}, []
    for node in graph.node:  # in topological order
        if node.op_type in PIXEL_OPERATORS and node.input[0] in pixels:
            steps.append(node)
            pixels.update(node.output)
    rest = [node for node in graph.node if node not in steps]
    exact = {name for node in steps for name in node.input}

    renamed: dict[str, str] = {}
    for tensor in [t for t in graph.initializer if t.data_type == TensorProto.FLOAT]:
        if tensor.name not in exact:
            tensor.CopyFrom(_half(tensor, tensor.name))
        elif any(tensor.name in node.input for node in rest):  # the exporter shares equal constants
            renamed[tensor.name] = f"{tensor.name}_fp16"
            graph.initializer.append(_half(tensor, renamed[tensor.name]))
    casts = []
    for name in sorted(pixels - {"image"}):
        if any(name in node.input for node in rest):
            renamed[name] = f"{name}_fp16"
            casts.append(helper.make_node("Cast", [name], [renamed[name]], to=TensorProto.FLOAT16))
    for node in rest:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = ["logits_fp16" if name == "logits" else name for name in node.output]
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_half(attribute.t, attribute.t.name))
    last = helper.make_node("Cast", ["logits_fp16"], ["logits"], to=TensorProto.FLOAT)
    nodes = [copy.deepcopy(node) for node in [*steps, *casts, *rest, last]]
    del graph.node[:]
    graph.node.extend(nodes)


def _half(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if (np.isinf(half) & np.isfinite(values)).any():
        raise UserError(
            f"expected weights within the fp16 range of 65504, found {np.abs(values).max():.3g} in '{name}'; ship fp32"
        )
    return numpy_helper.from_array(half, name)


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
    text = skeleton.SerializeToString()
    for folder in (Path.cwd(), Path.home(), Path(sys.prefix), Path(__file__).resolve().parents[2]):
        if folder != Path(folder.anchor) and str(folder).encode() in text:
            raise UserError(
                f"expected no path of this machine in the exported file, found {folder}; take it out of the metadata"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
