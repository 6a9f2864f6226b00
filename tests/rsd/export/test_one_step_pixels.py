import sys
from typing import Any

import numpy as np
import onnx
import pytest

from rsd.export.graph import checked
from rsd.export.one_step_pixels import one_step_pixels
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.trace import trace
from tests.rsd.export.conftest import MEAN, STD, tiny_model


@pytest.fixture
def exporters(monkeypatch):
    """`exporters("vit")`: a tiny model's graph as PyTorch's exporter leaves the pixels in it."""
    monkeypatch.setattr(sys.modules[trace.__module__], "one_step_pixels", lambda proto: None)

    def make(name: str) -> onnx.ModelProto:
        shape: dict[str, Any] = {"image_shape": (16, 16, 1), "classes": 10, "opset": 20, "ir_version": 10}
        return trace(tiny_model(name), mean=MEAN, std=STD, **shape).proto

    return make


def in_one_step(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    one_step_pixels(copy)
    return copy


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_logits_stay_as_they_are(exporters, images, name):
    proto = exporters(name)
    assert {"Div", "Sub"} <= {node.op_type for node in proto.graph.node[:6]}
    after = checked(in_one_step(proto))
    kinds = [node.op_type for node in after.graph.node]
    assert kinds[:3] == ["Cast", "Transpose", "BatchNormalization"]
    assert not {"Sub", "Div"} & set(kinds[3:6])
    read = {name for node in after.graph.node for name in node.input}
    assert {tensor.name for tensor in after.graph.initializer} <= read
    expected = logits_of(proto.SerializeToString(), images)
    np.testing.assert_allclose(
        logits_of(after.SerializeToString(), images), expected, atol=1e-5 * float(np.ptp(expected))
    )


def test_a_traced_graph_normalises_in_one_step(traced):
    graph = traced("vit").traced.proto.graph
    assert [node.op_type for node in graph.node][:3] == ["Cast", "Transpose", "BatchNormalization"]


def test_pixels_that_others_read_are_left_alone(exporters):
    """A second reader of the pixels on their way wants them as they were."""
    proto = exporters("vit")
    divided = next(node for node in proto.graph.node if node.op_type == "Div")
    proto.graph.node.append(onnx.helper.make_node("Relu", [divided.output[0]], ["other"]))
    assert in_one_step(proto) == proto


def test_a_graph_without_normalisation_is_left_alone():
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", 4, 4, 1])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node("Cast", ["image"], ["logits"], to=1)
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [image], [logits]))
    assert in_one_step(proto) == proto
