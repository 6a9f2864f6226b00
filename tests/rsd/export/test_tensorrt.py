import builtins
import importlib

import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError

from rsd.errors import UserError
from rsd.export import tensorrt
from rsd.export.tensorrt import EngineOptions, available, build, measurable, skipped
from rsd.files import sha256

needs_rtx = pytest.mark.skipif(
    (available() or ("none",))[0] != "tensorrt_rtx",
    reason="tensorrt_rtx, which needs no GPU, is not used here",
)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_without_a_gpu_and_described(exported, tmp_path, precision):
    source, engine = exported("vit", precision).path, tmp_path / "model.engine"
    record = build(source, engine, EngineOptions(), precision=precision)
    assert record["status"] == "built"
    assert record["inputs"] == [{"name": "image", "dtype": "uint8", "shape": [-1, 16, 16, 1]}]
    assert record["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [-1, 10]}]
    assert record["compute_capabilities"] == ["8.6", "8.9", "12.0"]
    assert (record["onnx_sha256"], record["engine_sha256"]) == (sha256(source), sha256(engine))
    assert record["bytes"] == engine.stat().st_size > 1000


@needs_rtx
def test_two_builds_give_the_same_engine(tmp_path):
    source = _graph(tmp_path, "Relu")
    records = [build(source, tmp_path / f"{i}.engine", EngineOptions(), precision="fp32") for i in range(2)]
    assert records[0]["engine_sha256"] == records[1]["engine_sha256"]


@needs_rtx
def test_an_operator_that_tensorrt_does_not_take_is_named(tmp_path):
    with pytest.raises(UserError, match=r"at node 'the_culprit' \(Det\)") as e:
        build(_graph(tmp_path, "Det"), tmp_path / "m.engine", EngineOptions(), precision="fp32")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "m.engine").exists()


@needs_rtx
def test_an_unknown_compute_capability_is_refused_with_those_that_exist(tmp_path):
    options = EngineOptions(compute_capabilities=["8.6", "5.0"])
    with pytest.raises(UserError, match=r"8\.9.*found 5\.0"):
        build(_graph(tmp_path, "Relu"), tmp_path / "m.engine", options, precision="fp32")


def test_without_a_library_engines_are_skipped_with_the_command_that_adds_one(monkeypatch, tmp_path):
    real = importlib.import_module

    def absent(name, *rest):
        if name.startswith("tensorrt"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(tensorrt.importlib, "import_module", absent)
    assert available() is None
    assert skipped()["status"] == "skipped"
    assert "pip install -c constraints.txt tensorrt-rtx" in skipped()["reason"]
    with pytest.raises(UserError, match="pip install"):
        build(tmp_path / "m.onnx", tmp_path / "m.engine", EngineOptions(), precision="fp32")


def test_tensorrt_is_preferred_where_it_has_a_gpu(monkeypatch):
    class Library:
        __version__ = "11"

    monkeypatch.setattr(tensorrt.importlib, "import_module", lambda name: Library)
    monkeypatch.setattr(tensorrt, "measurable", lambda: None)
    assert available() == ("tensorrt", "11")
    monkeypatch.setattr(tensorrt, "measurable", lambda: "not measured: no CUDA device")
    assert available() == ("tensorrt_rtx", "11")


def test_without_a_driver_nothing_can_be_measured(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(tensorrt.ctypes, "CDLL", absent)
    assert measurable() == "not measured: no CUDA device"


def test_a_library_is_imported_only_when_asked_for(monkeypatch):
    real = builtins.__import__

    def guarded(name, *rest, **named):
        assert not name.startswith("tensorrt")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", guarded)
    importlib.reload(tensorrt)


@pytest.mark.parametrize(
    "wrong",
    [{"min_batch": 4}, {"compute_capabilities": []}, {"compute_capabilities": ["RTX"]}, {"fp16": True}],
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        EngineOptions(**wrong)


def _graph(folder, operator):
    """uint8 `[N, 4, 4]` -> Cast -> `operator`."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["pixels"], ["logits"], name="the_culprit"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [logits]),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20)],
    )
    path = folder / f"{operator}.onnx"
    onnx.save(model, path)
    return path
