import pandas as pd
import pytest

from benchmarks import runtimes as module
from benchmarks.runtimes import MODELS, beside_a_loop, chart, compare, speeds, table
from rsd.measure.latency import Plan
from rsd.report.charts.style import svg


def test_every_row_stands_beside_bare_fp32(monkeypatch):
    """Two rounds of a few calls: that the rows are made."""
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    plan = Plan(warmup_seconds=0, min_seconds=0, min_samples=4, rounds=2)
    record, cosines = compare(plan, ["default student"])
    rows = [(row.runtime, row.precision) for row in record.rows]
    files = [(runtime, precision) for runtime in ("onnxruntime", "openvino") for precision in ("fp32", "int8")]
    assert rows == [*files, ("pytorch", "fp32"), (module.NNCF, "int8")]
    assert record.rows[-1].status == "not measured: NNCF is not installed; pip install nncf"
    near = cosines["default student"]
    assert near["onnxruntime fp32"] == pytest.approx(1)
    assert all(0.95 < near[f"{runtime} int8"] < 1 for runtime in ("onnxruntime", "openvino"))
    lines = table(record, cosines).splitlines()
    assert len(lines) == 2 + len(rows)
    assert lines[2].endswith("| 1.00 |")


def test_the_picture_has_every_model():
    frame = pd.DataFrame([{"model": name, "runs on": "OpenVINO int8", "speed": 2.0} for name in MODELS])
    assert all(name in svg(chart(frame)) for name in MODELS)


def test_speed_is_over_onnx_runtimes_fp32(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    record, _ = compare(Plan(warmup_seconds=0, min_seconds=0, min_samples=4, rounds=2), ["default student"])
    for row, p50 in zip(record.rows, (8.0, 4.0, 2.0, 1.0, 16.0), strict=False):
        row.p50_ms = p50
    assert list(speeds(record)["speed"]) == [1.0, 2.0, 4.0, 8.0, 0.5]


def test_the_harness_is_timed_beside_a_bare_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.runtimes.CALLS", 3)
    result = beside_a_loop(tmp_path, 2)
    assert list(result.columns) == ["bare", "ours"]
    assert (result > 0).all().all()
