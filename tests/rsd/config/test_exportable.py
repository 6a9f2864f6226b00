from typing import Any

import pytest
from torch import Tensor, nn

from rsd.config import exportable
from rsd.config.exportable import check_exportable
from rsd.export.options import ExportOptions
from rsd.machine.errors import UserError
from rsd.models.make import ModelOptions
from rsd.sources.base import Source
from stages import params

TINY: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
VIT = ModelOptions(name="vit_tiny_patch16_224", args=TINY)


def digits(size: int = 16) -> Source:
    return Source.model_validate({"source": "digits", "size": size})


class Branching(nn.Module):
    """The way through it depends on the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        return means if means.sum() > 0 else -means


class InDouble(nn.Module):
    """Uses an operator that ONNX Runtime has in float32 only."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.hardsigmoid(images.double()).flatten(1)[:, :10].float()


@pytest.fixture
def exports(monkeypatch):
    """The shapes of the images that students were exported for."""
    shapes: list[tuple[int, int, int]] = []
    monkeypatch.setattr(exportable, "trace", lambda model, *, image_shape, **_: shapes.append(image_shape))
    return shapes


def test_the_default_pair_passes_the_real_exporter(tmp_path):
    check_exportable(VIT, digits(), ExportOptions(), state=tmp_path)
    assert len(list((tmp_path / "exportable").iterdir())) == 1


def test_a_student_that_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exportable, "create", lambda *_, **__: Branching())
    with pytest.raises(UserError, match="student.name: vit_tiny_patch16_224: expected a student that torch.onnx") as e:
        check_exportable(VIT, digits(), ExportOptions(), state=tmp_path)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "exportable").exists()


def test_a_graph_that_onnx_runtime_refuses_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(exportable, "create", lambda *_, **__: InDouble())
    with pytest.raises(UserError, match="student.name: .*: expected a graph that ONNX Runtime loads.*HardSigmoid") as e:
        check_exportable(VIT, digits(), ExportOptions(), state=tmp_path)
    assert "\n" not in str(e.value)


def test_a_student_is_exported_once(tmp_path, exports):
    check_exportable(VIT, digits(), ExportOptions(), state=tmp_path)
    check_exportable(VIT, digits(), ExportOptions(license="MIT"), state=tmp_path)
    assert exports == [(16, 16, 3)]


@pytest.mark.parametrize("changed", ["student", "size", "opset", "versions", "code"])
def test_whatever_decides_asks_the_exporter_again(tmp_path, exports, monkeypatch, changed):
    check_exportable(VIT, digits(), ExportOptions(), state=tmp_path)
    student, source, options = VIT, digits(), ExportOptions()
    if changed == "student":
        student = ModelOptions(name=VIT.name, args=TINY | {"depth": 2})
    elif changed == "size":
        student, source = ModelOptions(name="resnet18"), digits(32)
    elif changed == "opset":
        options = ExportOptions(opset=18)
    elif changed == "versions":
        monkeypatch.setattr(exportable, "version", lambda library: "0")
    else:
        monkeypatch.setattr(exportable, "code_digests", lambda: {"rsd/export/trace.py": "0"})
    check_exportable(student, source, options, state=tmp_path)
    assert len(exports) == 2


def test_a_student_of_another_image_size_is_refused(tmp_path, exports):
    with pytest.raises(UserError, match="student: expected a model for images of 32 x 32"):
        check_exportable(VIT, digits(32), ExportOptions(), state=tmp_path)


def test_images_of_unknown_size_are_the_models(tmp_path, exports):
    unknown = Source.model_validate({"source": "fashion_mnist", "root": "nowhere"})
    check_exportable(VIT, unknown, ExportOptions(), state=tmp_path)
    check_exportable(ModelOptions(name="test_resnet"), unknown, ExportOptions(), state=tmp_path)
    assert exports == [(16, 16, 3), (160, 160, 3)]


def test_params_refuses_before_it_writes_anything(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise UserError("no")

    monkeypatch.setattr(params, "check_exportable", refuse)
    monkeypatch.setattr(params.OUT, "write_params", lambda files: pytest.fail("written"))
    with pytest.raises(UserError, match="no"):
        params.main()
