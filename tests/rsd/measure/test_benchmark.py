import gzip
import json
import subprocess
import sys
from contextlib import nullcontext

import pandas as pd
import pytest
from pydantic import ValidationError

from rsd.export import engine as engine_module
from rsd.machine.cuda import NoDriverError
from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.measure import benchmark as module
from rsd.measure.benchmark import BenchmarkOptions, benchmark
from rsd.measure.latency import untimed
from rsd.run.records import DeviceRecord, Latency, LatencyRecord

QUICK = BenchmarkOptions(
    warmup_seconds=0,
    min_seconds=0,
    min_samples=10,
    rounds=2,
    offline_batches=[4],
    cold_starts=0,
    baseline=False,
    runtimes=["onnxruntime"],
)
ROW = Latency(**untimed("m.onnx", "fp32", "onnxruntime", 1), status="waiting")
DEVICE = DeviceRecord.model_validate({"cpu": {"name": "x", "logical_cores": 2}, "gpus": []})


def _engine(folder, **record):
    write_json(folder / "engine.json", {"precision": "fp16", "library": "tensorrt"} | record)
    return folder


def test_every_model_is_timed_in_three_ways(tiny_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    result = benchmark(
        {"fp32": {"onnxruntime": tiny_onnx}, "fp16": {"onnxruntime": tiny_onnx}},
        {},
        QUICK,
        device=DEVICE,
        folder=tmp_path / "out",
    )
    assert LatencyRecord.model_validate_json((tmp_path / "out" / "latency.json").read_text()) == result
    outcome = [(row.precision, row.threads, row.batch, row.scenario) for row in result.rows]
    ways = [(1, 1, "single stream"), (2, 1, "single stream"), (2, 4, "offline")]
    assert outcome == [(precision, *way) for precision in ("fp32", "fp16") for way in ways]
    for row in result.rows:
        assert row.status == "measured"
        assert row.samples is not None
        assert row.samples >= 10
        assert row.mean_ms
        assert row.p50_ms
        assert row.file_bytes == tiny_onnx.stat().st_size
        assert row.images_per_second == pytest.approx(row.batch * 1000 / row.mean_ms)
        assert len(row.round_medians_ms or []) == 2
    assert set(result.conditions) == {"before", "after"}


def test_a_runtime_without_a_file_is_named(tiny_onnx, tmp_path, monkeypatch):
    both = QUICK.model_copy(update={"runtimes": ["onnxruntime", "openvino"]})
    rows = benchmark({"fp32": {"onnxruntime": tiny_onnx}}, {}, both, device=DEVICE, folder=tmp_path).rows
    (row,) = [row for row in rows if row.runtime == "openvino"]
    assert row.status == "not measured: no fp32 file is shipped for it"
    monkeypatch.setattr(type(module.runtimes.get("openvino")), "missing", lambda self: "it is not installed")
    rows = benchmark({"fp32": {"onnxruntime": tiny_onnx}}, {}, both, device=DEVICE, folder=tmp_path).rows
    assert [row.status for row in rows if row.runtime == "openvino"] == ["not measured: it is not installed"]


def test_one_core_is_timed_once(tiny_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 1)
    rows = benchmark({"fp32": {"onnxruntime": tiny_onnx}}, {}, QUICK, device=DEVICE, folder=tmp_path).rows
    assert [(row.threads, row.batch) for row in rows] == [(1, 1), (1, 4)]


def test_every_sample_is_kept(tiny_onnx, tmp_path):
    result = benchmark({"fp32": {"onnxruntime": tiny_onnx}}, {}, QUICK, device=DEVICE, folder=tmp_path)
    samples = pd.read_csv(tmp_path / "samples.csv.gz")
    assert tuple(samples.columns) == module.SAMPLE_COLUMNS
    assert len(samples) == sum(row.samples or 0 for row in result.rows)
    assert set(samples["round"]) == {0, 1}
    mean = samples[(samples["threads"] == 1) & (samples["batch"] == 1)]["nanoseconds"].mean() / 1e6
    assert mean == pytest.approx(result.rows[0].mean_ms)


def test_the_samples_file_depends_on_samples_only():
    args = ([ROW], [[[1, 2], [3]]])
    assert module._samples_csv(*args) == module._samples_csv(*args)
    assert gzip.decompress(module._samples_csv(*args)).splitlines()[1] == b"m.onnx,onnxruntime,fp32,1,1,0,1"


def test_what_cannot_be_measured_stays_in_the_record(tmp_path):
    row = ROW.model_copy(update={"status": "not measured: no compiler"})
    assert benchmark({}, {}, QUICK, device=DEVICE, folder=tmp_path, others=[row]).rows == [row]
    assert json.loads((tmp_path / "latency.json").read_text())["rows"][0]["p50_ms"] is None


def test_a_skipped_engine_says_why(tmp_path):
    engine = _engine(tmp_path / "fp16", status="skipped", reason="no library")
    (row,) = benchmark({}, {"fp16": engine}, QUICK, device=DEVICE, folder=tmp_path).rows
    assert row.status == "not measured: no library"
    assert row.p50_ms is row.threads is None


INPUTS = [{"name": "image", "dtype": "uint8", "shape": [-1, 4, 4, 1]}]
BUILT = {"status": "built", "inputs": INPUTS, "bytes": 7, "profile": {"min": 1, "opt": 1, "max": 3}}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoDriverError("no driver"), "not measured: no CUDA device"),
        (UserError("expected Polygraphy"), "not measured: expected Polygraphy"),
    ],
)
def test_an_engine_that_cannot_run_says_why(tmp_path, monkeypatch, error, status):
    def refused(folder, *, onnx):
        raise error

    monkeypatch.setattr(engine_module, "open_engine", refused)
    engine = _engine(tmp_path / "fp16", **BUILT, library="tensorrt_rtx")
    (row,) = benchmark({}, {"fp16": engine}, QUICK, device=DEVICE, folder=tmp_path).rows
    assert (row.status, row.runtime) == (status, "tensorrt_rtx")


@pytest.mark.parametrize(
    ("profile", "batches"),
    [((1, 8), [1, 4, 8]), ((1, 3), [1, 3]), ((1, 1), [1]), ((2, 8), [2, 4, 8]), ((5, 6), [5, 6])],
)
def test_an_engine_is_timed_with_and_without_copies(tmp_path, monkeypatch, profile, batches):
    """At its smallest batch, and offline at those of the options that it takes; other batches would be refused."""
    called = set()

    class Engine:
        shape = (4, 4, 1)

        def call(self, images, way):
            assert images.shape[1:] == (4, 4, 1)
            return lambda: called.add((way, len(images)))

    monkeypatch.setattr(engine_module, "open_engine", lambda folder, *, onnx: nullcontext(Engine()))
    least, most = profile
    engine = _engine(tmp_path / "fp16", **BUILT | {"profile": {"min": least, "max": most}}, library="tensorrt")
    options = QUICK.model_copy(update={"offline_batches": [4, 32]})
    rows = benchmark({}, {"fp16": engine}, options, device=DEVICE, folder=tmp_path).rows
    assert [(row.status, row.threads, row.file_bytes) for row in rows] == [("measured", None, 7)] * len(rows)
    assert [(row.batch, row.runtime) for row in rows] == [
        (batch, runtime) for batch in batches for runtime in ("tensorrt", "tensorrt compute only")
    ]
    assert [row.scenario for row in rows[::2]] == ["single stream" if b == 1 else "offline" for b in batches]
    assert called == {(how, batch) for how in ("", "compute only") for batch in batches}


def test_a_file_that_a_runtime_refuses_says_why(tmp_path):
    (tmp_path / "m.onnx").write_text("no graph")
    (row,) = benchmark({"fp32": {"onnxruntime": tmp_path / "m.onnx"}}, {}, QUICK, device=DEVICE, folder=tmp_path).rows
    assert row.status.startswith("not measured: ")
    assert row.runtime == "onnxruntime"


def test_a_runtime_that_there_is_not_is_refused():
    with pytest.raises(ValidationError, match="onnxruntime"):
        BenchmarkOptions(runtimes=["ncnn"])


def test_unknown_options_are_an_error():
    with pytest.raises(ValidationError):
        BenchmarkOptions(batch=8)  # type: ignore[call-arg]


def test_torch_is_not_imported():
    code = "import sys, rsd.measure.benchmark; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
