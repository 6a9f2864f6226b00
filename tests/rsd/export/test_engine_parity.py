"""The engines are real, the driver and Polygraphy's runner are fakes: no engine runs here."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rsd.export.divergence import graph_values
from rsd.export.engine_parity import engine_parity, engine_parting
from rsd.export.graph import checked, save
from rsd.export.half import to_half
from rsd.export.parity import GateError
from rsd.export.quantize import Int8Options, calibrated, quantized
from rsd.export.tensorrt import EngineOptions, available, build
from rsd.run.records import Comparison
from tests.rsd.export.conftest import Runner, broken

pytestmark = [
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif((available() or ("none",))[0] != "tensorrt_rtx", reason="tensorrt_rtx is not used here"),
]


def test_parity_is_recorded_where_the_engine_runs(built, polygraphy, images):
    folder, onnx = built
    reference = ort.InferenceSession(onnx).run(None, {"image": images})[0]
    record = engine_parity(folder, onnx=onnx, images=images, labels=reference.argmax(axis=1), reference=reference)
    assert isinstance(record, Comparison)
    assert record.top1_agreement == 1


def test_parity_says_why_it_was_not_measured(built, no_driver, images, request):
    folder, onnx = built
    arguments = {"onnx": onnx, "images": images, "labels": np.zeros(64, int), "reference": np.zeros((64, 10))}
    assert engine_parity(folder, **arguments) == "not measured: no CUDA device"
    request.getfixturevalue("gpus")("9.0")
    assert str(engine_parity(folder, **arguments)).startswith("not measured: expected a GPU of compute capability")


def test_logits_that_are_not_finite_are_the_engines(built, polygraphy, images, monkeypatch):
    folder, onnx_path = built
    monkeypatch.setattr(Runner, "infer", lambda *arguments, **options: {"logits": np.full((8, 10), np.nan)})
    with pytest.raises(GateError, match="expected finite logits of the fp32 engine, found NaN"):
        engine_parity(
            folder,
            onnx=onnx_path,
            images=images,
            labels=np.zeros(64, int),
            reference=np.zeros((64, 10), np.float32),
            what="fp32 engine",
        )


@pytest.mark.parametrize("count", [1, 5, 20])
def test_the_first_node_that_strays_is_named(built, polygraphy, images, monkeypatch, tmp_path, count):
    """A second engine is built for it, whose runner says what a broken graph says."""
    path = built[1]
    wrong = broken(onnx.load(path), "node_gelu")

    def infer(self, feed, check_inputs):
        assert 2 <= len(feed["image"]) <= 8  # the profile
        return graph_values(wrong, feed["image"])

    monkeypatch.setattr(Runner, "infer", infer)
    options = EngineOptions(min_batch=2, opt_batch=2, max_batch=8, strip_weights=True)
    output = engine_parting(path, images[:count], options, precision="fp32", folder=tmp_path)
    assert "the first node where the two part is node 'node_gelu' (Gelu)" in output


def test_without_a_second_engine_the_sentence_tells(built, images, no_driver, tmp_path):
    output = engine_parting(built[1], images[:2], EngineOptions(), precision="fp32", folder=tmp_path)
    assert output.startswith("the first node where the two part could not be found: expected an NVIDIA driver")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_value_can_be_an_engines_output(traced, images, tmp_path, precision):
    proto = traced("vit").traced.proto
    proto = to_half(proto) if precision == "fp16" else quantized(proto, calibrated(proto, images, Int8Options()))
    save(checked(proto), tmp_path / "m.onnx", metadata={"student": "rsd-0"})
    record = build(tmp_path / "m.onnx", tmp_path / "e", EngineOptions(), precision=precision, every_value=True)
    answers = {port.name for port in record.outputs}
    assert answers == set(graph_values(onnx.load(tmp_path / "m.onnx"), images[:1]))
    assert record.metadata == {"student": "rsd-0"}
