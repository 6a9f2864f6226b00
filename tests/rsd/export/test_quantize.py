import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from pydantic import ValidationError
from torch import nn

from rsd.export import tensorrt
from rsd.export.graph import checked, save
from rsd.export.options import export_options
from rsd.export.parity import compare
from rsd.export.quantize import Int8Options, calibrated, harms, quantized, tries
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.trace import trace
from rsd.machine.errors import UserError
from rsd.models.pixels import RawPixels


def int8_of(traced, images, *, in_float=(), **options):
    known = calibrated(traced.proto, images, Int8Options(**options))
    return known, checked(quantized(traced.proto, known, in_float=in_float))


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_int8_says_about_what_pytorch_says(traced, images, name):
    student = traced(name)
    reference = student.logits(images)
    _, proto = int8_of(student.traced, images)
    logits = logits_of(proto.SerializeToString(), images)
    assert 1e-4 < compare(reference, logits, reference.argmax(axis=1)).max_difference_share < 0.1
    assert np.corrcoef(reference.ravel(), logits.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_int8_is_symmetric_per_channel_with_float_biases(traced, images, name):
    known, proto = int8_of(traced(name).traced, images)
    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = onnx.numpy_helper.to_array(values[node.input[2]])
            assert zero.dtype == np.int8
            assert not zero.any()
    weights = [t for t in values.values() if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert weights
    scales = [values[node.input[1]] for node in proto.graph.node if node.input[0] in {t.name for t in weights}]
    assert all(np.prod(scale.dims) > 1 for scale in scales)
    assert not [t for t in values.values() if t.data_type == TensorProto.INT32]
    assert {n.op_type for n in proto.graph.node if n.name in known.nodes} <= {"Conv", "MatMul", "Gemm"}


def test_a_cubic_resize_between_convolutions_runs(images):
    class Scaled(nn.Module):
        """As CrossViT: one branch sees the image, the other the image scaled."""

        def __init__(self):
            super().__init__()
            self.convolutions = nn.ModuleList([nn.Conv2d(images.shape[3], 8, 3), nn.Conv2d(images.shape[3], 8, 3)])
            self.head = nn.Linear(16, 5)

        def forward(self, image):
            scaled = nn.functional.interpolate(image, size=(12, 12), mode="bicubic")
            maps = [part(one) for part, one in zip(self.convolutions, (image, scaled), strict=True)]
            return self.head(torch.cat([one.square().mean(dim=(2, 3)) for one in maps], dim=1))

    torch.manual_seed(0)
    pixels = {"mean": [0.5] * images.shape[3], "std": [0.25] * images.shape[3]}
    model = Scaled().eval()
    plain = trace(model, **pixels, image_shape=images.shape[1:], classes=5, opset=20, ir_version=10)
    _, proto = int8_of(plain, images)
    with torch.no_grad():
        expected = RawPixels(model, **pixels)(torch.from_numpy(images)).numpy()
    logits = logits_of(proto.SerializeToString(), images)
    assert compare(expected, logits, expected.argmax(axis=1)).max_difference_share < 0.1
    assert any(node.op_type == "QuantizeLinear" for node in proto.graph.node)


def test_pixels_and_logits_stay_as_they_are(traced, images):
    _, proto = int8_of(traced("vit").traced, images)
    (image,), (logits,) = proto.graph.input, proto.graph.output
    assert (image.type.tensor_type.elem_type, logits.type.tensor_type.elem_type) == (TensorProto.UINT8, 1)
    (last,) = [node for node in proto.graph.node if "logits" in node.output]
    assert last.op_type == "Gemm"
    assert proto.ir_version == 10
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]


@pytest.mark.parametrize("calibration", ["percentile", "entropy"])
def test_other_calibrations_take_narrower_ranges(traced, images, capfd, calibration):
    student = traced("resnet")
    known, proto = int8_of(student.traced, images, calibration=calibration, percentile=99.0)
    widest, _ = int8_of(student.traced, images)
    widths = [[float(np.abs(of.values[name].range_value).max()) for of in (known, widest)] for name in known.values]
    assert all(own <= whole * 1.01 for own, whole in widths)
    assert any(own < whole * 0.99 for own, whole in widths)
    assert logits_of(proto.SerializeToString(), images).shape == (64, 10)
    assert capfd.readouterr().out == ""


def test_the_same_few_images_are_always_used(traced, images):
    student = traced("resnet")
    few, many = (calibrated(student.traced.proto, images, Int8Options(calibration_images=n)) for n in (4, 64))
    again = calibrated(student.traced.proto, images, Int8Options(calibration_images=4))
    ends = [
        {name: np.ravel(known.values[name].range_value).tolist() for name in known.values} for known in (few, again)
    ]
    assert ends[0] == ends[1]
    assert any(many.values[name].highest > few.values[name].highest for name in few.values)


SAME_BYTES = """
import hashlib, sys
import numpy as np, onnx
from rsd.export.quantize import Int8Options, calibrated, quantized
proto, images = onnx.load(sys.argv[1]), np.load(sys.argv[2])
made = quantized(proto, calibrated(proto, images, Int8Options()))
print(hashlib.sha256(made.SerializeToString(deterministic=True)).hexdigest())
"""


def test_another_process_makes_the_same_bytes(traced, images, tmp_path):
    save(traced("vit").traced.proto, tmp_path / "m.onnx", metadata={})
    np.save(tmp_path / "images.npy", images)
    digests = {
        subprocess.check_output(
            [sys.executable, "-c", SAME_BYTES, tmp_path / "m.onnx", tmp_path / "images.npy"],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_most_harmful_node_is_kept_in_float(traced, images):
    """One value in a thousand that is far outside ruins the range of the matrix product that reads it."""
    student = traced("resnet")
    proto = onnx.ModelProto()
    proto.CopyFrom(student.traced.proto)
    (kernel,) = [t for t in proto.graph.initializer if t.name == "model.layer4.0.conv2.weight"]
    victim = next(node for node in proto.graph.node if kernel.name in node.input)
    values = onnx.numpy_helper.to_array(kernel).copy()
    values[:, 0, 0, 0] += 100 * np.abs(values).max()  # each channel's range now belongs to one weight
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    known = calibrated(proto, images, Int8Options())
    ranking = harms(proto, known, images, runs_on="tensorrt")
    assert len(ranking) == len(known.nodes)
    assert ranking[0].node == victim.name
    assert (ranking[0].operator, ranking[0].error > 3 * ranking[2].error) == ("Conv", True)
    exact = logits_of(proto.SerializeToString(), images)
    errors = [
        np.abs(logits_of(quantized(proto, known, in_float=kept).SerializeToString(), images) - exact).mean()
        for kept in ((), [victim.name])
    ]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(("count", "least"), [(14, 0.5), (74, 0.5), (3, 0.9), (5, 0.0), (100, 1.0), (1, 0.0)])
def test_tries_stay_within_the_stated_share(count, least):
    kept = tries(count, least)
    assert kept == sorted(set(kept))
    assert all(0 < number <= (1 - least) * count + 1e-6 for number in kept)
    assert not kept or kept[-1] == int((1 - least) * count + 1e-9)
    assert len(kept) <= 21


def test_a_graph_without_a_product_is_refused(traced, images):
    proto = onnx.ModelProto()
    proto.CopyFrom(traced("resnet").traced.proto)
    for node in proto.graph.node:
        node.op_type = "Relu" if node.op_type in ("Conv", "Gemm") else node.op_type
    with pytest.raises(UserError, match="ship fp32 or fp16"):
        calibrated(proto, images, Int8Options())


@pytest.mark.parametrize(
    "wrong", [{"calibration": "guess"}, {"calibration_images": 0}, {"least_share": 1.5}, {"percentile": 10}]
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        Int8Options(**wrong)
    with pytest.raises(ValidationError):
        export_options().model_validate({"int8": wrong})


@pytest.mark.skipif((tensorrt.available() or ("",))[0] != "tensorrt_rtx", reason="tensorrt_rtx is not used here")
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_same_graph_builds_an_engine(traced, images, tmp_path, name):
    _, proto = int8_of(traced(name).traced, images)
    save(proto, tmp_path / "m.onnx", metadata={})
    record = tensorrt.build(tmp_path / "m.onnx", tmp_path / "e", tensorrt.EngineOptions(), precision="int8")
    assert record.status == "built"
