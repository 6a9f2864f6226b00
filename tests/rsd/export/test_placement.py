import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsd.export.graph import checked
from rsd.export.placement import CPU_ALL, CPU_PRODUCTS, TENSORRT, cpu_forms, kept_in_float
from rsd.export.quantize import Int8Options, calibrated, quantized


def quantised(traced, images, form) -> onnx.ModelProto:
    return checked(quantized(traced.proto, calibrated(traced.proto, images, Int8Options(), form)))


def pairs(proto) -> dict[str, np.ndarray]:
    """Zero points by the value that a pair rounds."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {node.input[0]: values[node.input[2]] for node in proto.graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize(("name", "faster"), [("resnet", CPU_ALL), ("vit", CPU_PRODUCTS)])
def test_convolutions_and_products_want_different_forms(traced, name, faster):
    first, second = cpu_forms(traced(name).traced.proto)
    assert (first, {first, second}) == (faster, {CPU_ALL, CPU_PRODUCTS})


@pytest.mark.parametrize("form", [CPU_ALL, CPU_PRODUCTS])
def test_cpus_get_unsigned_values_and_int32_biases(traced, images, form):
    proto = quantised(traced("resnet").traced, images, form)
    assert {zero.dtype for zero in pairs(proto).values()} == {np.dtype(np.uint8)}
    assert any(tensor.data_type == TensorProto.INT32 for tensor in proto.graph.initializer)


def test_scores_are_signed_and_weighing_is_in_float(traced, images):
    """Queries and keys get symmetric int8; what softmax gives gets no pair."""
    proto = traced("vit").traced.proto
    (weighing,) = kept_in_float(proto, CPU_PRODUCTS)
    by_name = {node.name: node for node in proto.graph.node}
    softmax = {name for node in proto.graph.node if node.op_type == "Softmax" for name in node.output}
    assert softmax.intersection(by_name[weighing].input)
    constants = {tensor.name for tensor in proto.graph.initializer}
    (scores,) = [
        node
        for node in proto.graph.node
        if node.op_type == "MatMul" and node.name != weighing and not constants.intersection(node.input)
    ]
    zeros = pairs(quantised(traced("vit").traced, images, CPU_PRODUCTS))
    assert [zeros[name].dtype for name in scores.input] == [np.int8, np.int8]
    assert not any(zeros[name].any() for name in scores.input)
    assert not softmax.intersection(zeros)


def test_a_product_of_a_mean_stays_in_float():
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], "mean"),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"], "head"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 4, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    constants = [
        numpy_helper.from_array(np.array([1]), "axes"),
        numpy_helper.from_array(np.eye(3, dtype=np.float32), "weight"),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "g", [image], [logits], constants))
    assert kept_in_float(proto, CPU_PRODUCTS) == {"head"}
    assert kept_in_float(proto, TENSORRT) == kept_in_float(proto, CPU_ALL) == set()
