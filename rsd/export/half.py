"""An exported graph in fp16: weights and computation, but not pixels, normalisation and logits."""

import copy
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rsd.machine.errors import UserError

# What normalisation consists of: these nodes, followed from the input on, stay float32 in an fp16 graph.
PIXEL_OPERATORS = {"Cast", "Transpose", "BatchNormalization"}


def to_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph that `rsd.export.trace.trace` made, in fp16.

    onnxconverter-common is not used, because it rounds the mean and std too and moves small weights. An AveragePool
    of opset 19 or newer stays float32, see `_computes_in_float32`.

    Raises:
        UserError: a weight is beyond the range of fp16.
    """
    proto = copy.deepcopy(proto)
    graph = proto.graph
    del graph.value_info[:]  # their types are those of fp32
    pixels, steps = {"image"}, []
    for node in graph.node:  # in topological order
        if node.op_type in PIXEL_OPERATORS and node.input[0] in pixels:
            steps.append(node)
            pixels.update(node.output)
    rest = [node for node in graph.node if node not in steps]
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    wide = [_float32_only(node, opsets) for node in rest]
    exact = {name for node in steps for name in node.input}
    exact |= {node.input[index] for node, indices in zip(rest, wide, strict=True) for index in indices}
    halved = {
        name
        for node, indices in zip(rest, wide, strict=True)
        for index, name in enumerate(node.input)
        if index not in indices
    }

    renamed: dict[str, str] = {}
    for tensor in [t for t in graph.initializer if t.data_type == TensorProto.FLOAT]:
        if tensor.name not in exact:
            tensor.CopyFrom(_half(tensor, tensor.name))
        elif tensor.name in halved:  # the exporter shares equal constants
            renamed[tensor.name] = f"{tensor.name}_fp16"
            graph.initializer.append(_half(tensor, renamed[tensor.name]))
    casts = []
    for name in sorted(pixels - {"image"}):
        if name in halved:
            renamed[name] = f"{name}_fp16"
            casts.append(helper.make_node("Cast", [name], [renamed[name]], to=TensorProto.FLOAT16))
    computed, body = {name for node in rest for name in node.output}, list[onnx.NodeProto]()
    for node, indices in zip(rest, wide, strict=True):
        for index, name in enumerate(node.input):
            if index not in indices:
                node.input[index] = renamed.get(name, name)
            elif name in computed:
                node.input[index] = f"{name}_fp32_{len(body)}"
                body.append(helper.make_node("Cast", [name], [node.input[index]], to=TensorProto.FLOAT))
        body.append(node)
        node.output[:] = ["logits_fp16" if name == "logits" else name for name in node.output]
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_half(attribute.t, attribute.t.name))
        if _computes_in_float32(node, opsets):
            half, node.output[0] = node.output[0], f"{node.output[0]}_fp32"
            body.append(helper.make_node("Cast", [node.output[0]], [half], to=TensorProto.FLOAT16))
    last = helper.make_node("Cast", ["logits_fp16"], ["logits"], to=TensorProto.FLOAT)
    nodes = [copy.deepcopy(node) for node in [*steps, *casts, *body, last]]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


def _float32_only(node: onnx.NodeProto, opsets: Mapping[str, int]) -> set[int]:
    """Which inputs of a node take float32 and no fp16, such as the scales of Resize."""
    if _computes_in_float32(node, opsets):
        return {0}
    schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    return {
        index
        for index, port in zip(range(len(node.input)), schema.inputs, strict=False)
        if port.type_str == "tensor(float)"
    }


def _computes_in_float32(node: onnx.NodeProto, opsets: Mapping[str, int]) -> bool:
    """Whether a node stays float32 between casts.

    On an Arm CPU with half-precision arithmetic, such as a Cortex-A76, ONNX Runtime 1.32 moves an fp16 AveragePool to
    a layout where it has a kernel below opset 19 only, and the file does not load.
    """
    return node.op_type == "AveragePool" and opsets[node.domain] >= 19


def _half(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if (np.isinf(half) & np.isfinite(values)).any():
        raise UserError(
            f"expected weights within the fp16 range of 65504, found {np.abs(values).max():.3g} in '{name}'; ship fp32"
        )
    return numpy_helper.from_array(half, name)
