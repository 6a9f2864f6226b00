"""A trained student as one ONNX graph: raw uint8 pixels in, float32 logits out, and nothing else inside."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from rsd.export import precisions
from rsd.export.divergence import first_divergence, graph_values, in_words
from rsd.export.graph import check_runs, checked
from rsd.export.ladder import Ladder
from rsd.export.parity import Gate
from rsd.export.pytorch_values import parts, torch_values
from rsd.machine.errors import UserError, first_line
from rsd.models.make import parameter_count
from rsd.models.pixels import RawPixels
from rsd.run.records import Parity

# Top-level names of the module that training wraps around a student: such a state is not a plain student's.
SCAFFOLDING = {"aad", "projection", "student"}


class Traced(NamedTuple):
    """A student as a graph."""

    proto: onnx.ModelProto
    """fp32, checked, with the shapes and types of all values."""
    program: torch.export.ExportedProgram
    """What it was made from: the same values under the same names, in PyTorch."""


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
        UserError: the model holds a training-only module, is too large for a file, or cannot be exported; the graph
            differs in size or shape from the model, or ONNX Runtime does not run it.
    """
    _check_model(model)
    plain = copy.deepcopy(model).cpu().float().eval()
    proto, program = _exported(RawPixels(plain, mean, std).eval(), image_shape, opset)
    _strip(proto)
    _check_size(proto, plain)
    proto.ir_version = ir_version
    proto = checked(proto)
    _check_interface(proto, image_shape, classes)
    check_runs(proto.SerializeToString())
    return Traced(proto, program)


def judge_traced(ladder: Ladder, gate: Gate, traced: Traced) -> Parity:
    """Hold the graph to PyTorch on all test images; UserError names the node where they differ."""

    def explain(images: NDArray[np.uint8]) -> str:
        values = torch_values(traced.program, images), graph_values(traced.proto, images)
        divergence = first_divergence(*values, precisions.get("fp32").tolerance)
        return in_words(divergence, traced.proto, parts(traced.program))

    return ladder.judge(gate, ladder.run(traced.proto), explain)


def _check_model(model: nn.Module) -> None:
    for name in model.state_dict():
        if name.split(".")[0] in SCAFFOLDING:
            raise UserError(
                f"expected a plain student to export, found '{name}', which only training needs; "
                "export the weights that `distill` saved"
            )
    size = 4 * parameter_count(model)
    if size > onnx.checker.MAXIMUM_PROTOBUF:
        raise UserError(
            f"expected a student of less than 2 GiB in fp32, the limit of an ONNX file, found {size / 2**30:.1f} GiB; "
            "choose a smaller student"
        )


def _exported(
    model: nn.Module, image_shape: tuple[int, int, int], opset: int
) -> tuple[onnx.ModelProto, torch.export.ExportedProgram]:
    try:
        program = _program(model, image_shape, opset)
    except torch.onnx.OnnxExporterError:
        # PyTorch's fused attention has no form in ONNX on tensors of five axes, as in windows; the plain one has.
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
        try:
            program = _program(model, image_shape, opset)
        except torch.onnx.OnnxExporterError as error:
            raise UserError(
                f"expected a student that torch.onnx exports, found one that it cannot ({_cause(error)}); choose "
                "another student"
            ) from error
    assert program is not None  # None comes from the exporter that preceded dynamo
    assert program.exported_program is not None
    _register_constants(program)
    proto = program.model_proto
    written = [(entry.domain, entry.version) for entry in proto.opset_import]
    if written != [("", opset)]:  # the exporter keeps its own opset where it cannot convert, and says so only in a log
        raise UserError(
            f"expected a graph in opset {opset} of ONNX, found {written}: the exporter cannot write {opset}; "
            "choose an opset from 18 to 23"
        )
    return proto, program.exported_program


def _program(model: nn.Module, image_shape: tuple[int, int, int], opset: int) -> torch.onnx.ONNXProgram | None:
    example = torch.zeros(2, *image_shape, dtype=torch.uint8)  # a batch of 1 would be taken as fixed
    with _quiet():
        return torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )


def _register_constants(program: torch.onnx.ONNXProgram) -> None:
    """onnxscript's fusion to Clip loses limits where a value is clipped twice: it gives both the same names."""
    graph = program.model.graph
    for node in graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.producer() is None:
                graph.register_initializer(value)


def _cause(error: BaseException) -> str:
    """The first line of what the exporter stumbled over; its own message is about its steps."""
    while error.__cause__:
        error = error.__cause__
    return first_line(error)


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
        if index:  # an MLP computes the table from coordinates, as in ViT-RelPos; what it says of them is folded
            rows = [b.shape[:-1].numel() for b in module.buffers(recurse=False) if b.is_floating_point()]
            expected += sum(rows) * max((p.shape[0] for p in module.parameters() if p.ndim), default=0)
    exported = sum(int(np.prod(t.dims)) for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT)
    if exported > 1.01 * expected + 1000:
        raise UserError(
            f"expected at most {expected:,} numbers in the exported graph, as in the plain model, found "
            f"{exported:,}; export a model whose forward pass uses its own weights only"
        )


def _check_interface(proto: onnx.ModelProto, image_shape: tuple[int, int, int], classes: int) -> None:
    ports = [
        (value.name, kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim])
        for value in [*proto.graph.input, *proto.graph.output]
        for kind in [value.type.tensor_type]
    ]
    expected = [("image", TensorProto.UINT8, ["N", *image_shape]), ("logits", TensorProto.FLOAT, ["N", classes])]
    if ports != expected:
        raise UserError(
            f"expected a graph from image, uint8 {['N', *image_shape]}, to logits, float32 {['N', classes]}, "
            f"found (name, type, shape) {ports}; check the number of classes and the image size"
        )
