"""Checked against Triton's own protobuf schema, as its client ships it. No server runs here."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper

from rsd.export.triton import config, write_repository
from rsd.machine.errors import UserError
from rsd.machine.files import sha256, write_json
from rsd.release.bundle import BundleOptions, write_bundle
from tests.bundles import ingredients
from tests.command import rsd

ENGINE = {"status": "built", "precision": "fp32"}


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """model_config.proto; `tritonclient.grpc` itself would want grpcio, of which the schema has no need."""
    package = importlib.util.find_spec("tritonclient")
    assert package
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(tmp_path):
    """What of a bundle matters here: fp32 with an engine by tensorrt, fp16 by tensorrt_rtx, int8 without one."""
    folder = tmp_path / "bundle"
    (folder / "golden").mkdir(parents=True)
    np.save(folder / "golden" / "images.npy", np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3))
    write_json(folder / "labels.json", ["a cat", "a\ndog", "…"])
    options = BundleOptions(name="digits", release=3)
    whole = write_bundle(tmp_path / "whole", options, **ingredients(tmp_path / "run")).content()
    models: dict[str, dict[str, object]] = {}
    parity = whole["models"]["fp32"]["parity"]
    for precision, library in (("fp32", "tensorrt"), ("fp16", "tensorrt_rtx"), ("int8", None)):
        (folder / precision).mkdir()
        onnx.save(_graph(), folder / precision / "model.onnx")
        models[precision] = {"onnx": {"onnxruntime": f"{precision}/model.onnx"}, "parity": parity}
        if library:
            (folder / precision / "model.engine").write_bytes(b"engine")
            write_json(
                folder / precision / "engine.json",
                ENGINE | {"library": library, "profile": {"min": 2, "opt": 4, "max": 16}},
            )
            models[precision]["engine"] = f"{precision}/model.engine"
    return _described(folder, whole | {"models": models})


def _described(folder, manifest):
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    files = {str(path.relative_to(folder)): {"bytes": 1, "sha256": sha256(path)} for path in paths}
    write_json(folder / "manifest.json", manifest | {"files": files})
    return folder


def _graph():
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 5, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 5, 3])
    node = helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.FLOAT)
    return helper.make_model(helper.make_graph([node], "g", [image], [logits]))


def test_every_config_is_one_in_tritons_own_schema(bundle, tmp_path, schema):
    write_repository(bundle, tmp_path / "models", max_batch=4)
    configs = sorted((tmp_path / "models").glob("*/config.pbtxt"))
    assert len(configs) == 4
    for path in configs:
        read = text_format.Parse(path.read_text(), schema.ModelConfig())
        assert read.name == path.parent.name  # or Triton refuses it
        (image,), (logits,) = read.input, read.output
        assert (image.name, image.data_type, list(image.dims)) == ("image", schema.TYPE_UINT8, [4, 5, 3])
        assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", schema.TYPE_FP32, [3])
        assert read.WhichOneof("scheduling_choice") == "dynamic_batching"
        assert read.dynamic_batching.max_queue_delay_microseconds == 100
        assert (path.parent / logits.label_filename).is_file()
        least = 2 if read.backend == "tensorrt" else 1  # of the engine's profile: it refuses a smaller batch
        assert [sample.batch_size for sample in read.model_warmup] == [least, read.max_batch_size]
        for sample in read.model_warmup:
            warm = sample.inputs["image"]
            assert (warm.data_type, list(warm.dims)) == (image.data_type, list(image.dims))
            file = path.parent / "warmup" / warm.input_data_file  # where Triton looks for it
            assert file.stat().st_size == np.prod(warm.dims)


def test_each_back_end_gets_its_own_file(bundle, tmp_path, schema):
    models = tmp_path / "models"
    write_repository(bundle, models)
    read = {
        p.parent.name: text_format.Parse(p.read_text(), schema.ModelConfig()) for p in models.glob("*/config.pbtxt")
    }
    assert {name: (c.backend, c.max_batch_size) for name, c in read.items()} == {
        "digits-fp32-onnx": ("onnxruntime", 8),
        "digits-fp16-onnx": ("onnxruntime", 8),
        "digits-int8-onnx": ("onnxruntime", 8),
        "digits-fp32-tensorrt": ("tensorrt", 16),  # the engine's profile
    }
    assert (models / "digits-fp16-onnx" / "3" / "model.onnx").read_bytes() == (bundle / "fp16/model.onnx").read_bytes()
    assert (models / "digits-fp32-tensorrt" / "3" / "model.plan").read_bytes() == b"engine"


def test_names_and_types_are_the_onnx_files(bundle, tmp_path, schema):
    write_repository(bundle, tmp_path / "models")
    folder = tmp_path / "models" / "digits-fp32-onnx"
    read = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    graph = onnx.load(folder / "3" / "model.onnx").graph
    assert [i.name for i in graph.input] == [i.name for i in read.input]
    assert [o.name for o in graph.output] == [o.name for o in read.output]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][1:] == list(read.input[0].dims)


def test_a_label_stands_on_its_classs_line(bundle, tmp_path):
    write_repository(bundle, tmp_path / "models")
    assert (tmp_path / "models/digits-fp32-onnx/labels.txt").read_text().splitlines() == ["a cat", "a dog", "…"]


def test_an_engine_triton_cannot_load_is_left_out(bundle, tmp_path):
    result = write_repository(bundle, tmp_path / "models")
    assert result["digits-fp16-tensorrt"].endswith("does not load engines by tensorrt_rtx")
    assert result["digits-int8-tensorrt"].endswith("the bundle has no engine of it")
    record = ENGINE | {"library": "tensorrt", "profile": {"min": 1, "max": 16}, "weights_stripped": True}
    write_json(bundle / "fp32" / "engine.json", record)
    _described(bundle, json.loads((bundle / "manifest.json").read_text()))
    assert "weight-stripped" in write_repository(bundle, tmp_path / "other")["digits-fp32-tensorrt"]


def test_a_later_release_stands_beside_the_earlier_one(bundle, tmp_path):
    models = tmp_path / "models"
    write_repository(bundle, models)
    (models / "someone-elses").mkdir()
    manifest = json.loads((bundle / "manifest.json").read_text())
    _described(bundle, manifest | {"release": 4})
    write_repository(bundle, models)
    assert {p.name for p in (models / "digits-fp32-onnx").iterdir() if p.name.isdecimal()} == {"3", "4"}
    assert (models / "someone-elses").is_dir()


def test_a_missing_or_broken_bundle_is_refused(bundle, tmp_path):
    with pytest.raises(UserError, match="expected the manifest of a bundle at .*manifest.json, found none"):
        write_repository(tmp_path / "nowhere", tmp_path / "models")
    (bundle / "fp16" / "model.onnx").write_bytes(b"another")
    with pytest.raises(UserError, match="fp16/model.onnx as the manifest describes it"):
        write_repository(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_one_image_a_batch_is_warmed_up_once(schema):
    text = config("m", "onnxruntime", shape=(4, 4, 1), classes=2, batches=(1, 1))
    assert [s.batch_size for s in text_format.Parse(text, schema.ModelConfig()).model_warmup] == [1]


def test_the_commands_errors_are_sentences(bundle, tmp_path, capsys):
    assert not rsd("triton", str(bundle), str(tmp_path / "models"))
    assert "digits-fp32-onnx: written\n" in capsys.readouterr().out
    assert rsd("triton", str(tmp_path), str(tmp_path / "m")).startswith("error: expected the manifest of a bundle")
