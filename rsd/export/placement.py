"""Where Q/DQ pairs go in an int8 graph: which runtimes reach their integer kernels differs by their place and type."""

from collections.abc import Callable
from typing import NamedTuple

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

PRODUCTS = ("Conv", "MatMul", "Gemm")


class Form(NamedTuple):
    """A way to place the pairs."""

    name: str
    operators: tuple[str, ...]
    """What is quantised."""
    activations: QuantType
    int32_biases: bool
    float_results: tuple[str, ...] = ()
    """Operators whose results get no pair: they come out of the integer kernel as float, and stay more exact."""

    @property
    def symmetric(self) -> bool:
        """Whether zero is in the middle of the activations' range."""
        return self.activations is QuantType.QInt8


TENSORRT = Form("tensorrt", PRODUCTS, QuantType.QInt8, int32_biases=False)
"""TensorRT takes symmetric pairs and float biases only; with the quantiser's default operators it refuses Swin."""
CPU_PRODUCTS = Form("products", PRODUCTS, QuantType.QUInt8, int32_biases=True, float_results=("MatMul", "Gemm"))
"""For CPUs: matrix products and convolutions. What a transformer does between them stays in float."""
CPU_ALL = CPU_PRODUCTS._replace(name="all", operators=tuple(sorted({*QDQRegistry, *QLinearOpsRegistry})))
"""For CPUs: all that ONNX Runtime can compute in integers, so that a chain of convolutions never leaves them."""


def cpu_forms(proto: onnx.ModelProto) -> tuple[Form, Form]:
    """The forms for CPUs, the one that is the faster for this graph first.

    Nets of convolutions gain from integers all the way; nets of matrix products lose time to the pairs between these.
    """
    count = [sum(node.op_type in kinds for node in proto.graph.node) for kinds in (("Conv",), ("MatMul", "Gemm"))]
    return (CPU_ALL, CPU_PRODUCTS) if count[0] > count[1] else (CPU_PRODUCTS, CPU_ALL)


def kept_in_float(proto: onnx.ModelProto, form: Form) -> set[str]:
    """Names of the nodes that the form leaves as they are, whatever their operator."""
    kept = _fed_by(proto, _is_cubic)
    if form is not TENSORRT:
        # ONNX Runtime's integer kernels want a constant matrix on the right.
        ranks = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
        kept |= {
            node.name
            for node in _products(proto)
            if node.op_type == "MatMul" and (node.input[0] in ranks or ranks.get(node.input[1], 2) != 2)
        }
    if form is CPU_PRODUCTS:
        # OpenVINO's attention computes scores from int8, and what softmax weighs from float. A mean over tokens it
        # joins with the pair behind it, and then computes it wrongly (2026.4).
        fed = _fed_by(proto, lambda node: node.op_type in ("Softmax", "ReduceMean"))
        kept |= fed.intersection(node.name for node in _products(proto))
    return kept


def signed(proto: onnx.ModelProto, form: Form) -> set[str]:
    """Values that get symmetric int8 in any form: queries and keys, which OpenVINO's attention takes so."""
    if form is not CPU_PRODUCTS:
        return set()
    constants = {tensor.name for tensor in proto.graph.initializer}
    kept = kept_in_float(proto, form)
    return {
        name
        for node in _products(proto)
        if node.op_type == "MatMul" and node.name not in kept and not constants.intersection(node.input)
        for name in node.input
    }


def cubic_from_float(proto: onnx.ModelProto) -> None:
    """Give a cubic Resize its input as it was before a Q/DQ pair that others need.

    Between pairs ONNX Runtime would compute it in integers, and cannot.
    """
    producers = {name: node for node in proto.graph.node for name in node.output}
    for node in filter(_is_cubic, proto.graph.node):
        pair = producers.get(node.input[0])
        if pair is not None and pair.op_type == "DequantizeLinear":
            node.input[0] = producers[pair.input[0]].input[0]


def _is_cubic(node: onnx.NodeProto) -> bool:
    return node.op_type == "Resize" and any(a.name == "mode" and a.s == b"cubic" for a in node.attribute)


def _products(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type in PRODUCTS]


def _fed_by(proto: onnx.ModelProto, kind: Callable[[onnx.NodeProto], bool]) -> set[str]:
    """Names of the nodes that take a result of such nodes."""
    results = {name for node in filter(kind, proto.graph.node) for name in node.output}
    return {node.name for node in proto.graph.node if results.intersection(node.input)}
