import numpy as np
import pytest
import torch
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
