import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from onnx import TensorProto
from pydantic import ValidationError
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock
from torch import nn

from rsd.errors import UserError
from rsd.export import tensorrt
from rsd.export.onnx import ExportOptions, export_onnx
from rsd.export.parity import Gates, check, compare, logits_of
from rsd.models import RawPixels
from tests.rsd.export.conftest import export, lively

KINDS = [("resnet", "fp32"), ("vit", "fp16")]


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_onnx_runtime_says_what_pytorch_says(exported, images, name, precision):
    student = exported(name, precision)
    reference = student.logits(images)
    record = compare(reference, logits_of(student.path, images), reference.argmax(axis=1))
    check(record, precision, Gates())
    assert record["max_difference_share"] < (1e-5 if precision == "fp32" else 5e-3)


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_the_batch_may_have_any_size(exported, images, name, precision):
    session = ort.InferenceSession(exported(name, precision).path)
    whole = session.run(None, {"image": images[:5]})[0]
    for size in (1, 2, 3):
        part = session.run(None, {"image": images[:size]})[0]
        assert part.shape == (size, 10)
        np.testing.assert_allclose(part, whole[:size], atol=1e-2 if precision == "fp16" else 1e-5)


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_raw_pixels_go_in_and_float32_logits_come_out(exported, name, precision):
    proto = onnx.load(exported(name, precision).path)
    (image,), (logits,) = proto.graph.input, proto.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", TensorProto.FLOAT)
    assert proto.ir_version == 10
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]


def test_an_fp16_graph_holds_fp16_weights_and_float32_pixel_statistics(exported):
    graph = onnx.load(exported("vit", "fp16").path).graph
    types = {t.name: t.data_type for t in graph.initializer}
    full = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT]
    assert types["model.pos_embed"] == TensorProto.FLOAT16
    assert sum(int(np.prod(t.dims)) for t in full) <= 3  # 255, mean and std
    assert types["normalize.mean"] == TensorProto.FLOAT


def test_the_same_model_gives_the_same_bytes_and_no_chatter(exported, tmp_path, capfd):
    student = exported("vit", "fp16")
    capfd.readouterr()
    export(student.model, "fp16", tmp_path / "again.onnx")
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "again.onnx").read_bytes() == student.path.read_bytes()


@pytest.mark.parametrize(("name", "precision"), KINDS)
def test_the_file_names_no_folder_of_this_machine(exported, name, precision):
    content = exported(name, precision).path.read_bytes()
    for folder in (Path.cwd(), Path(sys.prefix), Path(torch.__file__).parent, Path(timm.__file__).parent):
        assert str(folder).encode() not in content
    assert b"stack_trace" not in content


def test_metadata_travels_in_the_file(exported):
    properties = {p.key: p.value for p in onnx.load(exported("resnet", "fp32").path).metadata_props}
    assert properties == {"name": "tiny", "classes": '["a", "b"]'}


def test_exporting_leaves_the_model_as_it_was(exported):
    student = exported("vit", "fp16")
    assert {p.dtype for p in student.model.parameters()} == {torch.float32}


def test_a_path_in_the_metadata_is_refused(tmp_path):
    with pytest.raises(UserError, match="take it out of the metadata"):
        export(_Linear(), "fp32", tmp_path / "m.onnx", metadata={"data": f"{Path.cwd()}/images"})
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("part", ["aad", "projection"])
def test_a_training_only_module_is_refused(tmp_path, part):
    model = _Linear()
    model.add_module(part, nn.Linear(10, 10))
    with pytest.raises(UserError, match=f"found '{part}.weight'"):
        export(model, "fp32", tmp_path / "m.onnx")


def test_weights_that_are_not_the_models_are_refused(tmp_path):
    foreign = torch.randn(10, 2000)

    class Grown(nn.Module):
        def forward(self, x):
            return (x.flatten(1)[:, :10] @ foreign)[:, :10]

    with pytest.raises(UserError, match="found 20,0"):
        export(Grown(), "fp32", tmp_path / "m.onnx")


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="check the number of classes"):
        export(_Linear(), "fp32", tmp_path / "m.onnx", classes=11)


def test_weights_beyond_fp16_are_refused(tmp_path):
    model = _Linear()
    nn.init.constant_(model.head.weight, 1e6)
    with pytest.raises(UserError, match="ship fp32"):
        export(model, "fp16", tmp_path / "m.onnx")


def test_an_opset_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a graph in opset 11 of ONNX, found"):
        export(_Linear(), "fp32", tmp_path / "m.onnx", opset=11)


def test_unknown_options_are_an_error():
    with pytest.raises(ValidationError, match="opsett"):
        ExportOptions(opsett=19)  # type: ignore[call-arg]


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return self.head(x.flatten(1))


FAMILIES = {
    "resnet18": lambda: timm.create_model("resnet18", num_classes=10),
    "mobilenetv2_100": lambda: timm.create_model("mobilenetv2_100", num_classes=10),
    "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=10),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        patch_size=2,
        window_size=4,
        embed_dim=48,
        depths=(2, 2, 2, 2),
        num_heads=(2, 4, 8, 16),
        num_classes=10,
    ),
    "resmlp": lambda: MlpMixer(
        num_classes=10, img_size=64, num_blocks=2, embed_dim=64, mlp_ratio=4, block_layer=ResBlock, norm_layer=Affine
    ),
    "convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=10),
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_exports_agrees_and_builds(tmp_path, name, precision):
    torch.manual_seed(0)
    model, path = lively(FAMILIES[name]()), tmp_path / "model.onnx"
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    export_onnx(
        model,
        mean=mean,
        std=std,
        image_shape=(64, 64, 3),
        classes=10,
        precision=precision,
        opset=20,
        ir_version=10,
        metadata={},
        path=path,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        reference = RawPixels(model, mean, std)(torch.from_numpy(pixels)).numpy()
    record = compare(reference, logits_of(path, pixels), reference.argmax(axis=1))
    assert record["max_difference_share"] < (1e-4 if precision == "fp32" else 2e-2)
    assert record["disagreements_beyond_near_ties"] == 0
    if (tensorrt.available() or ("",))[0] == "tensorrt_rtx":
        tensorrt.build(path, tmp_path / "engine", tensorrt.EngineOptions(), precision=precision)
