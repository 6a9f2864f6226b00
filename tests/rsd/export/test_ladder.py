import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rsd.export import ladder as module
from rsd.export.divergence import graph_values, parts
from rsd.export.half import to_half
from rsd.export.ladder import Ladder
from rsd.export.parity import Gates, logits_of
from rsd.export.quantize import Int8Options
from rsd.export.strip import AsTrained, judge_stripped, judge_traced
from rsd.export.trace import trace
from rsd.machine.errors import UserError
from rsd.methods import distiller
from rsd.methods.base import Setting
from rsd.models.features import stage_shapes
from rsd.models.timm_model import ModelOptions, PixelNormalize, create, predict
from rsd.sources.images import LabelledImages
from tests.rsd.export.conftest import MEAN, STD, lively

VIT: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "args": {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
}
RESNET: dict[str, Any] = {"name": "resnet18", "args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}}
SHAPE: dict[str, Any] = {"height": 16, "width": 16, "mean": MEAN, "std": STD, "classes": [str(i) for i in range(10)]}

NORMALIZE = PixelNormalize(MEAN, STD)


def labelled(student, images) -> LabelledImages:
    """Labels as the student gives them, so that every change of the first class is an error."""
    return LabelledImages(images, student.logits(images).argmax(axis=1), [str(i) for i in range(10)])


def ladder_of(model, split: LabelledImages, **gates) -> Ladder:
    expected = predict(model, NORMALIZE, split.images, batch_size=256).logits.numpy()
    return Ladder(split, expected, Gates(**gates))


def named(student) -> dict[str, str]:
    return parts(student.traced.program)


def climbing(student, images, **gates) -> Ladder:
    return ladder_of(student.model, labelled(student, images), **gates)


def test_every_rung_has_a_parity_record_on_real_images(traced, images):
    student = traced("resnet")
    ladder = climbing(student, images)
    judge_traced(ladder, student.traced)
    proto = ladder.fp16(student.traced.proto, named(student))
    assert [record.rung for record in ladder.records] == ["fp32", "fp16"]
    for record in ladder.records:
        assert record.images == 64
        assert record.against == "stripped"
    assert proto.graph.output[0].name == "logits"
    assert ladder.logits is not None
    assert ladder.logits.shape == (64, 10)


def test_a_failed_fp32_rung_names_rung_worst_images_and_node(traced, images):
    student = traced("resnet")
    proto = onnx.ModelProto()
    proto.CopyFrom(student.traced.proto)
    (node,) = [node for node in proto.graph.node if node.name == "node_relu_3"]
    node.op_type = "Softplus"
    with pytest.raises(UserError, match=r"^the fp32 export differs .*: \d+, .*'node_relu_3'") as error:
        judge_traced(climbing(student, images), student.traced._replace(proto=proto))
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
    split = LabelledImages(images, np.zeros(64, np.int64), SHAPE["classes"])
    with pytest.raises(UserError, match=r"^the fp16 export leaves the range .* test image \d+: .* node '.*' \(Mul\)"):
        ladder_of(model, split).fp16(made.proto, parts(made.program))


def test_fp16_is_judged_with_every_value_rounded_as_a_gpu_rounds_it(traced, images, monkeypatch):
    student = traced("resnet")
    ladder = climbing(student, images)
    proto = ladder.fp16(student.traced.proto, named(student))
    values = graph_values(proto, images)
    assert values["logits_fp16"].dtype == np.float16
    rounded = ladder.records[0].rounded
    assert rounded
    assert rounded["images"] == 64
    found = np.abs(values["logits"] - student.logits(images)).max()
    assert rounded["max_difference"] == pytest.approx(float(found), rel=0.2)  # the batch is another
    monkeypatch.setattr(ladder, "_rounded", lambda *_: ladder.expected[::-1])  # of other images
    with pytest.raises(UserError, match="^the fp16 export loses"):
        ladder.fp16(student.traced.proto, named(student))


def test_int8_that_passes_keeps_nothing_in_float(traced, images):
    student = traced("resnet")
    ladder = climbing(student, images, int8_accuracy_delta=50.0)
    split = labelled(student, images)
    _, made = ladder.int8(student.traced.proto, named(student), Int8Options(), train=split, validation=split)
    assert (made["in_float"], made["nodes"], made["calibration_images"]) == ([], 14, 64)


def test_int8_takes_its_ranges_from_the_training_split_alone(traced, images):
    """With other validation and test images it is the same graph, with other training images another."""
    student, others = traced("resnet"), images[::-1] // 2

    def made(*, train, rest) -> bytes:
        ladder = climbing(student, rest, int8_accuracy_delta=100.0)
        split = labelled(student, rest)
        proto, _ = ladder.int8(
            student.traced.proto, named(student), Int8Options(), train=labelled(student, train), validation=split
        )
        return proto.SerializeToString(deterministic=True)

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
    ladder, split = climbing(student, images), labelled(student, images[:40])
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
    _, made = ladder.int8(student.traced.proto, named(student), Int8Options(), train=split, validation=split)
    assert found == asked
    assert made["refused_by_test"] == refused
    assert [harm["node"] for harm in made["in_float"]] == order[: len(in_float[-1])] == in_float[-1]


def test_int8_that_cannot_pass_says_how_much_is_in_float_and_where_most_is_lost(traced, images):
    student = traced("resnet")
    split = labelled(student, images)
    wrong = split._replace(labels=split.labels.copy())
    ladder = ladder_of(student.model, wrong)
    ladder.expected = ladder.expected[::-1]  # of other images, so that no graph can agree
    wrong.labels[:] = ladder.expected.argmax(axis=1)
    with pytest.raises(
        UserError, match="^with 3 of 14 nodes kept in float the int8 export loses .*; most is lost at '"
    ):
        ladder.int8(student.traced.proto, named(student), Int8Options(least_share=0.75), train=split, validation=split)


def trained(folder, method: str) -> tuple[Any, Any]:
    """What `distill` and `teacher` would have written for this method, untrained."""
    student, teacher = folder / "student", folder / "teacher"
    kind = distiller(method)
    for place, what, name in ((student, VIT, "student"), (teacher, RESNET, "model")):
        place.mkdir()
        torch.manual_seed(1)
        model = lively(create(ModelOptions(**what), classes=10, image_shape=(16, 16, 1)))
        save_file(model.state_dict(), place / f"{name}.safetensors")
        record = {**SHAPE, "model": what, "method": method, "options": kind.Options().model_dump()}
        (place / f"{name}.json").write_text(json.dumps({**record, "embedding_width": 64}))
        if name == "student":
            own = model
    shapes = stage_shapes(model, (16, 16, 1)) if kind.staged else None
    task = kind(own, Setting(64, shapes, image_shape=(16, 16, 1), image_count=100))
    state = task.get_task_state().get("projection", {})
    save_file({f"projection.{k}": v.clone() for k, v in state.items()}, student / "scaffold.safetensors")
    return student, teacher


@pytest.mark.parametrize("method", ["scratch", "rsd", "kd", "cc", "crd", "fitnet", "ofa"])
def test_a_stripped_student_says_exactly_what_it_said_beside_its_scaffold(tmp_path, images, method):
    student, teacher = trained(tmp_path, method)
    within = AsTrained(student, teacher, image_count=100)
    model = create(ModelOptions(**VIT), classes=10, image_shape=(16, 16, 1)).eval()
    model.load_state_dict(load_file(student / "student.safetensors"))
    split = LabelledImages(images, np.zeros(64, np.int64), SHAPE["classes"])
    ladder = ladder_of(model, split)
    judge_stripped(ladder, model, NORMALIZE, within)
    assert ladder.records[0].max_difference == 0
    assert np.ptp(ladder.expected) > 0.1


def test_a_student_that_was_not_stripped_cleanly_is_refused_with_the_part_that_differs(tmp_path, images):
    student, teacher = trained(tmp_path, "rsd")
    within = AsTrained(student, teacher, image_count=100)
    model = create(ModelOptions(**VIT), classes=10, image_shape=(16, 16, 1)).eval()
    state = load_file(student / "student.safetensors")
    state["blocks.2.mlp.fc1.bias"] += 1e-3
    model.load_state_dict(state)
    split = LabelledImages(images, np.zeros(64, np.int64), SHAPE["classes"])
    with pytest.raises(UserError, match=r"^the stripped student differs .* is 'blocks\.2\.mlp\.fc1', whose output"):
        judge_stripped(ladder_of(model, split), model, NORMALIZE, within)
