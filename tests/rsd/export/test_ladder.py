import numpy as np
import pytest
import torch
from torch import nn

from rsd.export import ladder as module
from rsd.export.divergence import graph_values
from rsd.export.half import to_half
from rsd.export.ladder import Conversion, Ladder
from rsd.export.parity import Gates, logits_of
from rsd.export.pytorch_values import parts
from rsd.export.quantize import Int8Options
from rsd.export.trace import trace
from rsd.machine.errors import UserError
from rsd.sources.images import LabelledImages
from tests.rsd.export.conftest import MEAN, STD, broken

CLASSES = [str(number) for number in range(10)]


def labelled(student, images) -> LabelledImages:
    """Labels as the student gives them, so that every change of the first class is an error."""
    return LabelledImages(images, student.logits(images).argmax(axis=1), CLASSES)


def converting(student, images, **gates) -> Conversion:
    ladder = Ladder(student.logits(images), labelled(student, images), Gates(**gates))
    return Conversion(ladder, student.traced.proto, parts(student.traced.program))


def test_every_rung_has_a_parity_record_on_real_images(traced, images):
    conversion = converting(traced("resnet"), images)
    _, logits = conversion.fp32()
    proto, _ = conversion.fp16()
    assert [(record.rung, record.images) for record in conversion.ladder.records] == [("fp32", 64), ("fp16", 64)]
    assert proto.graph.output[0].name == "logits"
    assert logits.shape == (64, 10)


def test_a_failed_rung_names_rung_worst_images_node_and_part(traced, images, monkeypatch):
    conversion = converting(traced("resnet"), images)
    monkeypatch.setattr(module, "to_half", lambda proto: broken(to_half(proto), "node_relu_3"))
    with pytest.raises(
        UserError, match=r"^the fp16 export loses .*: \d+, .*'node_relu_3' \(Tanh\), .* in PyTorch"
    ) as error:
        conversion.fp16()
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


def test_an_activation_beyond_fp16_fails_the_rung_though_a_cpu_computes_it_in_float32(images):
    torch.manual_seed(0)
    model = Loud().eval()
    made = trace(model, mean=MEAN, std=STD, image_shape=(16, 16, 1), classes=10, opset=20, ir_version=10)
    half = to_half(made.proto)
    assert np.abs(graph_values(made.proto, images[:4])["relu"]).max() > 65504
    assert np.isfinite(logits_of(half.SerializeToString(), images)).all()  # what a CPU says of the file
    ladder = Ladder(
        logits_of(half.SerializeToString(), images), LabelledImages(images, np.zeros(64, int), CLASSES), Gates()
    )
    with pytest.raises(UserError, match=r"^the fp16 export leaves the range .* test image \d+: .* node '.*' \(Mul\)"):
        Conversion(ladder, made.proto, parts(made.program)).fp16()


def test_fp16_is_judged_with_every_value_rounded_as_a_gpu_rounds_it(traced, images, monkeypatch):
    student = traced("resnet")
    conversion = converting(student, images)
    proto, _ = conversion.fp16()
    values = graph_values(proto, images)
    assert values["logits_fp16"].dtype == np.float16
    rounded = conversion.ladder.records[0].rounded
    assert rounded is not None
    assert rounded["images"] == 64
    largest = np.abs(values["logits"] - student.logits(images)).max()
    assert rounded["max_difference"] == pytest.approx(float(largest), rel=0.2)  # the batch is another
    monkeypatch.setattr(conversion, "_rounded", lambda *_: conversion.ladder.expected[::-1])  # of other images
    with pytest.raises(UserError, match="^the fp16 export loses"):
        conversion.fp16()


def test_int8_that_passes_keeps_nothing_in_float(traced, images):
    student = traced("resnet")
    split = labelled(student, images)
    conversion = converting(student, images, int8_accuracy_delta=50.0)
    _, _, made = conversion.int8(Int8Options(), train=split, validation=split)
    assert (made["in_float"], made["nodes"], made["calibration_images"]) == ([], 14, 64)


def test_int8_takes_its_ranges_from_the_training_split_alone(traced, images):
    """With other validation and test images it is the same graph, with other training images another."""
    student, others = traced("resnet"), images[::-1] // 2

    def made(*, train, rest) -> bytes:
        conversion = converting(student, rest, int8_accuracy_delta=100.0)
        splits = {"train": labelled(student, train), "validation": labelled(student, rest)}
        return conversion.int8(Int8Options(), **splits)[0].SerializeToString(deterministic=True)

    first = made(train=images, rest=images)
    assert made(train=images, rest=others) == first
    assert made(train=others, rest=images) != first


@pytest.mark.parametrize(
    ("validation_passes_at", "test_passes_at", "asked", "refused"),
    [
        (0, 0, ["validation 0", "test 0"], []),
        (1, 0, ["validation 0", "validation 1", "test 1"], []),
        (1, 2, ["validation 0", "validation 1", "test 1", "validation 2", "test 2"], [1]),
    ],
)
def test_validation_images_choose_how_many_nodes_stay_in_float_and_test_images_judge(
    traced, images, monkeypatch, validation_passes_at, test_passes_at, asked, refused
):
    """The gate is made to pass once so many of the most harmful nodes are in float."""
    student = traced("resnet")
    conversion, split = converting(student, images), labelled(student, images[:40])
    in_float: list[list[str]] = []
    found: list[str] = []
    order: list[str] = []
    made_of, measure = module.quantized, module.harms

    def quantized(proto, known, **options):
        in_float.append(options["in_float"])
        return made_of(proto, known, **options)

    def harms(*arguments, **options):
        assert not order  # measured once
        harmful = measure(*arguments, **options)
        order.extend(harm.node for harm in harmful)
        return harmful

    def judge(record, rung, gates, *, split="test"):
        assert record["images"] == {"validation": 40, "test": 64}[split]
        kept = len(in_float[-1])
        found.append(f"{split} {kept}")
        if kept < {"validation": validation_passes_at, "test": test_passes_at}[split]:
            raise module.GateError("too bad", [3, 4])

    monkeypatch.setattr(module, "harms", harms)
    monkeypatch.setattr(module, "quantized", quantized)
    monkeypatch.setattr(module, "check", judge)
    _, _, made = conversion.int8(Int8Options(), train=split, validation=split)
    assert found == asked
    assert made["refused_by_test"] == refused
    assert [harm["node"] for harm in made["in_float"]] == order[: len(in_float[-1])] == in_float[-1]


def test_int8_that_cannot_pass_says_how_much_is_in_float_and_where_most_is_lost(traced, images):
    student = traced("resnet")
    split = labelled(student, images)
    wrong = split._replace(labels=split.labels.copy())
    ladder = Ladder(student.logits(images)[::-1], wrong, Gates())  # of other images, so that no graph can agree
    wrong.labels[:] = ladder.expected.argmax(axis=1)
    with pytest.raises(
        UserError, match="^with 3 of 14 nodes kept in float the int8 export loses .*; most is lost at '"
    ):
        Conversion(ladder, student.traced.proto, {}).int8(Int8Options(least_share=0.75), train=split, validation=split)
