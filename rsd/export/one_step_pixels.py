"""Normalisation of pixels in one step."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TRACED = ("Cast", "Div", "Sub", "Div", "Transpose")
"""What `rsd.export.trace` makes of the pixels: to float, by 255, less the mean, by the std, channels first."""


def one_step_pixels(proto: onnx.ModelProto) -> None:
    """Turn the pixels' channels first, and normalise them by one BatchNormalization, where they are traced so.

    ONNX Runtime takes as long for the three broadcasts as for a sixth of a MobileNetV2. The cast stays first, because
    TensorRT allows no other operation on bytes.
    """
    graph = proto.graph
    (image,) = graph.input
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    chain: list[onnx.NodeProto] = [node for node in readers.get(image.name, []) if node.op_type == "Cast"]
    while len(chain) < len(TRACED):
        following = readers.get(chain[-1].output[0], []) if chain else []
        if [node.op_type for node in following] != [TRACED[len(chain)]]:
            return
        chain += following
    values = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64).ravel() for tensor in graph.initializer}
    whole, mean, std = (values.get(node.input[1]) for node in chain[1:4])
    (turn,) = chain[4].attribute
    if whole is None or mean is None or std is None or list(turn.ints) != [0, 3, 1, 2]:
        return
    channels = image.type.tensor_type.shape.dim[3].dim_value
    constants = {"scale": 1 / (whole * std), "shift": -mean / std, "zero": np.zeros(1), "one": np.ones(1)}
    graph.initializer.extend(
        numpy_helper.from_array(np.broadcast_to(value, channels).astype(np.float32), f"pixels.{name}")
        for name, value in constants.items()
    )
    nodes = [
        helper.make_node("Cast", [image.name], ["pixels.float"], "pixels.cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels.float"], ["pixels.turned"], "pixels.turn", perm=[0, 3, 1, 2]),
        helper.make_node(
            "BatchNormalization",
            ["pixels.turned", *(f"pixels.{name}" for name in ("scale", "shift", "zero", "one"))],
            [chain[4].output[0]],
            "pixels.normalise",
            epsilon=0.0,
        ),
    ]
    nodes += [node for node in graph.node if node not in chain]
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    for entries, new in ((graph.node, nodes), (graph.initializer, kept)):
        del entries[:]
        entries.extend(new)
