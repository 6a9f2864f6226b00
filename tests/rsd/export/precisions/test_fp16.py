import numpy as np
import onnx
import pytest
import torch
from onnx.parser import parse_model
from torch import nn

from rsd.export import precisions
from rsd.export.divergence import graph_values
from rsd.export.half import to_half
from rsd.export.ladder import Ladder
from rsd.export.options import export_options
from rsd.export.precisions import fp16
from rsd.export.precisions.base import Converted, Exported
from rsd.export.pytorch_values import parts
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.trace import trace
from rsd.machine.errors import UserError
from rsd.sources.images import LabelledImages
from tests.rsd.export.conftest import CLASSES, MEAN, STD, broken, to_convert


def convert(exported: Exported) -> Converted:
    return precisions.get("fp16").convert(exported, export_options()().of("fp16"))


def test_a_file_has_a_record_on_real_images(traced, images):
    converted = convert(to_convert(traced("resnet"), images, "fp16"))
    assert (converted.parity.rung, converted.parity.images) == ("fp16", 64)
    assert converted.graph.graph.output[0].name == "logits"
    assert converted.logits.shape == (64, 10)


def test_a_failed_gate_names_images_node_and_part(traced, images, monkeypatch):
    monkeypatch.setattr(fp16, "to_half", lambda graph: broken(to_half(graph), "node_relu_3"))
    sentence = r"^the fp16 export loses .*: \d+, .*'node_relu_3' \(Tanh\), .* in PyTorch"
    with pytest.raises(UserError, match=sentence) as error:
        convert(to_convert(traced("resnet"), images, "fp16"))
    assert "\n" not in str(error.value)


class Loud(nn.Module):
    """Activations of 2e5 within, which the next layer makes small again, so that no weight and no logit tells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.point, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 10)
        with torch.no_grad():
            self.conv.weight.mul_(3000).abs_()
            self.point.weight.mul_(1e-4)

    def forward_features(self, x):
        return torch.relu(self.point(torch.relu(self.conv(x) * 30)))

    def forward_head(self, x, pre_logits=False):
        return x.mean((2, 3)) if pre_logits else self.head(x.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def test_an_activation_beyond_fp16_fails_on_a_cpu(images):
    torch.manual_seed(0)
    model = Loud().eval()
    made = trace(model, mean=MEAN, std=STD, image_shape=(16, 16, 1), classes=10, opset=20, ir_version=10)
    half = to_half(made.proto)
    assert np.abs(graph_values(made.proto, images[:4])["relu"]).max() > 65504
    assert np.isfinite(logits_of(half.SerializeToString(), images)).all()  # what a CPU says of the file
    split = LabelledImages(images, np.zeros(64, np.int64), CLASSES)
    ladder = Ladder(logits_of(half.SerializeToString(), images), split)
    with pytest.raises(UserError, match=r"^the fp16 export leaves the range .* test image \d+: .* node '.*' \(Mul\)"):
        convert(Exported(made.proto, parts(made.program), ladder, export_options()().gate("fp16"), lambda _: split))


def test_fp16_is_judged_with_every_value_rounded(traced, images, monkeypatch):
    student = traced("resnet")
    exported = to_convert(student, images, "fp16")
    converted = convert(exported)
    values = graph_values(converted.graph, images)
    assert values["logits_fp16"].dtype == np.float16
    rounded = converted.parity.rounded
    assert rounded is not None
    assert rounded.images == 64
    largest = np.abs(values["logits"] - student.logits(images)).max()
    assert rounded.max_difference == pytest.approx(float(largest), rel=0.2)  # the batch is another
    monkeypatch.setattr(fp16, "rounded_logits", lambda *_: exported.ladder.expected[::-1])  # of other images
    with pytest.raises(UserError, match="^the fp16 export loses"):
        convert(exported)


class Enlarged(nn.Module):
    """Resize twice: with scales that are constant, and with scales that are computed from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        x = nn.functional.interpolate(self.conv(x), scale_factor=2, mode="bilinear")
        return self.head(nn.functional.interpolate(x, scale_factor=1.5, mode="bilinear").mean((2, 3)))


def test_the_scales_of_a_resize_stay_float32(images):
    torch.manual_seed(0)
    traced = trace(Enlarged(), mean=MEAN, std=STD, image_shape=(16, 16, 1), classes=10, opset=20, ir_version=10)
    half = to_half(traced.proto)
    assert sum(node.op_type == "Resize" for node in half.graph.node) == 2
    exact, near = (logits_of(graph.SerializeToString(), images) for graph in (traced.proto, half))
    np.testing.assert_allclose(near, exact, atol=1e-2)


def test_computed_scales_are_cast_to_float32(images):
    graph = parse_model(COMPUTED)
    exact, near = (logits_of(proto.SerializeToString(), images) for proto in (graph, to_half(graph)))
    assert exact.shape == (64, 10)
    np.testing.assert_allclose(near, exact, atol=1e-2)


@pytest.mark.parametrize(("opset", "tensor_type"), [(18, np.float16), (20, np.float32), (23, np.float32)])
def test_average_pooling_has_a_kernel_on_arm(images, opset, tensor_type):
    """Below opset 19 in fp16, above it in float32 only; no CPU of the tests has one of the fp16 kernels."""
    exact = parse_model(POOLED % opset)
    half = onnx.shape_inference.infer_shapes(to_half(exact), check_type=True, strict_mode=True)
    types = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in [*half.graph.value_info, *half.graph.output]
    }
    pools = [node for node in half.graph.node if node.op_type == "AveragePool"]
    assert [types[node.output[0]] for node in pools] == [tensor_type] * 2
    assert types["small"] == np.float16
    expected, logits = (logits_of(proto.SerializeToString(), images) for proto in (exact, half))
    np.testing.assert_allclose(logits, expected, rtol=1e-2)


POOLED = """
<ir_version: 10, opset_import: ["": %d]>
tiny (uint8[N, 16, 16, 1] image) => (float[N, 4] logits)
<float[1] hundred = {100}, int64[2] shape = {0, -1},
 float[4, 4] weight = {1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1}>
{
    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    large = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (planes)
    small = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (large)
    scaled = Div (small, hundred)
    flat = Reshape (scaled, shape)
    logits = MatMul (flat, weight)
}
"""
COMPUTED = """
<ir_version: 10, opset_import: ["": 20]>
tiny (uint8[N, 16, 16, 1] image) => (float[N, 10] logits)
<float[4] two = {1, 1, 2, 2}, float[1, 10] weight = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, int64[2] axes = {2, 3}>
{
    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    root = Sqrt (two)
    scales = Mul (root, root)
    large = Resize <mode = "linear"> (planes, , scales)
    mean = ReduceMean <keepdims = 0> (large, axes)
    hundred = Constant <value = float {100.0}> ()
    small = Div (mean, hundred)
    logits = MatMul (small, weight)
}
"""
