from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of one cast: uint8 `[N, 4, 4, 1]` -> float32 `[N, 4, 4, 1]`."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 4, 1])
    node = helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "g", [image], [logits])
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path
