import gzip
import json
import subprocess
import sys

import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError

from rsd import benchmark as module
from rsd.benchmark import BenchmarkOptions, Latency, benchmark, summary
from rsd.files import write_json

QUICK = BenchmarkOptions(warmup_seconds=0, min_seconds=0, min_samples=10, rounds=2)
ROW = Latency(file="m.onnx", precision="fp32", runtime="onnxruntime", threads=1, status="waiting")
MS = 1_000_000


@pytest.fixture
def model(tmp_path):
    """uint8 `[N, 4, 4, 1]` -> float32 `[N, 4, 4, 1]`."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 4, 1])
    node = helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "g", [image], [logits])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def _engine(folder, **record):
    write_json(folder / "engine.json", record)
    return folder


def test_every_model_is_timed_with_one_thread_and_with_all(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    result = benchmark({"fp32": model, "fp16": model}, {}, QUICK, device={"cpu": "x"}, folder=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "latency.json").read_text()) == result
    rows = result["rows"]
    assert [(r["precision"], r["threads"]) for r in rows] == [
        ("fp32", 1),
        ("fp32", 2),
        ("fp16", 1),
        ("fp16", 2),
    ]
    for row in rows:
        assert row["status"] == "measured"
        assert row["samples"] >= 10
        assert row["p50_ms"] > 0
        assert row["images_per_second"] == pytest.approx(1000 / row["mean_ms"])
        assert len(row["round_medians_ms"]) == 2


def test_one_core_is_timed_once(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 1)
    assert len(benchmark({"fp32": model}, {}, QUICK, device={}, folder=tmp_path)["rows"]) == 1


def test_models_take_turns_and_every_sample_is_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    opened = []
    real = module._onnx_session

    def noted(path, threads):
        opened.append(threads)
        return real(path, threads)

    monkeypatch.setattr(module, "_onnx_session", noted)
    result = benchmark({"fp32": model}, {}, QUICK, device={}, folder=tmp_path)
    assert opened == [1, 2, 1, 2]
    samples = pd.read_csv(tmp_path / "samples.csv.gz")
    assert tuple(samples.columns) == module.SAMPLE_COLUMNS
    assert len(samples) == sum(row["samples"] for row in result["rows"])
    assert set(samples["round"]) == {0, 1}
    mean = samples[samples["threads"] == 1]["nanoseconds"].mean() / 1e6
    assert mean == pytest.approx(result["rows"][0]["mean_ms"])


def test_the_samples_file_depends_on_nothing_but_the_samples():
    args = ([ROW], [[[1, 2], [3]]])
    assert module._samples_csv(*args) == module._samples_csv(*args)
    assert gzip.decompress(module._samples_csv(*args)).splitlines()[1] == b"m.onnx,fp32,1,0,1"


@pytest.mark.parametrize(
    ("samples", "known"),
    [(63, {"p50"}), (64, {"p50", "p90"}), (661, {"p50", "p90"}), (662, {"p50", "p90", "p99"})],
)
def test_a_percentile_with_too_few_samples_is_null(samples, known):
    row = summary(ROW, [[MS] * samples])
    values = {"p50": row.p50_ms, "p90": row.p90_ms, "p99": row.p99_ms}
    assert {name for name, value in values.items() if value is not None} == known


def test_no_outlier_is_removed():
    row = summary(ROW, [[MS] * 661 + [1000 * MS]])
    assert row.samples == 662
    assert row.mean_ms == pytest.approx((661 + 1000) / 662)
    assert (row.p50_ms, row.p99_ms) == (1, 1)


def test_rounds_that_disagree_are_called_noisy():
    calm, loud = summary(ROW, [[100, 100], [104]]), summary(ROW, [[100, 100], [150]])
    assert (calm.noisy, loud.noisy) == (False, True)
    assert loud.spread == pytest.approx(50 / 125)


def test_a_skipped_engine_says_why(tmp_path):
    engine = _engine(tmp_path / "fp16", status="skipped", reason="no library")
    (row,) = benchmark({}, {"fp16": engine}, QUICK, device={}, folder=tmp_path)["rows"]
    assert row["status"] == "not measured: no library"
    assert row["p50_ms"] is row["threads"] is None


def test_an_engine_without_a_gpu_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measurable", lambda: "not measured: no CUDA device")
    engine = _engine(tmp_path / "fp16", status="built", library="tensorrt_rtx")
    (row,) = benchmark({}, {"fp16": engine}, QUICK, device={}, folder=tmp_path)["rows"]
    assert (row["status"], row["runtime"]) == ("not measured: no CUDA device", "tensorrt_rtx")


def test_without_polygraphy_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measurable", lambda: None)
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    monkeypatch.setitem(sys.modules, "polygraphy.backend.trt", None)
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "0")
    engine = _engine(tmp_path / "fp16", status="built", library="tensorrt_rtx")
    (row,) = benchmark({}, {"fp16": engine}, QUICK, device={}, folder=tmp_path)["rows"]
    assert row["status"].startswith("not measured: ")
    assert "pip install -c constraints.txt polygraphy" in row["status"]


def test_an_engine_that_runs_is_timed_like_the_others(tmp_path, monkeypatch):
    class Runner:
        def __init__(self, engine):
            assert engine == b"engine"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def infer(self, feed, check_inputs):
            assert feed["image"].shape == (1, 4, 4, 1)

    class Polygraphy:
        TrtRunner = Runner
        EngineFromBytes = staticmethod(lambda content: content)

    monkeypatch.setattr(module, "measurable", lambda: None)
    monkeypatch.setattr(module.importlib, "import_module", lambda name: Polygraphy)
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "0")
    inputs = [{"name": "image", "dtype": "uint8", "shape": [-1, 4, 4, 1]}]
    engine = _engine(tmp_path / "fp16", status="built", library="tensorrt", inputs=inputs)
    (engine / "model.engine").write_bytes(b"engine")
    (row,) = benchmark({}, {"fp16": engine}, QUICK, device={}, folder=tmp_path)["rows"]
    assert (row["status"], row["runtime"], row["threads"]) == ("measured", "tensorrt", None)


def test_unknown_options_are_an_error():
    with pytest.raises(ValidationError):
        BenchmarkOptions(batch=8)  # type: ignore[call-arg]


def test_torch_is_not_imported():
    code = "import sys, rsd.benchmark; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
