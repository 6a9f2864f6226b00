import hashlib

import pytest

from rsd.machine.errors import UserError
from rsd.measure.budget.records import KitRecord
from rsd.measure.budget.runner import FORMAT
from rsd.measure.latency import Turn, measured, untimed
from rsd.report.charts.speed import latencies
from rsd.report.charts.style import svg
from rsd.report.latency_table import markdown, read
from rsd.run.records import Latency, LatencyRecord
from tests.command import rsd

FIGURES = {
    **{"samples": 63, "mean_ms": 1.0, "p50_ms": 1.0, "images_per_second": 1000.0, "cpu_ms": 1.0, "spread": 0.0},
    **{"noisy": False, "settled": True, "file_bytes": 1000, "cold_start_ms": [3.0, 1.0, 2.0]},
    "peak_memory_bytes": 5_000_000,
}


def record(**changes):
    row = Latency(
        file="out/convert/fp32/model.onnx",
        precision="int8",
        runtime="onnxruntime",
        threads=1,
        scenario="single stream",
        batch=1,
        status="measured",
        **{**FIGURES, **changes},
    )
    missing = row.model_copy(update={"status": "not measured: no CUDA device", "runtime": "tensorrt", "threads": None})
    state = {"affinity": [0, 1], "clock_mhz": [2600, 2600], "governor": None, "load": 0.1}
    return LatencyRecord(
        device={"cpu": {"name": "x", "logical_cores": 2, "flags": ["avx2"]}, "gpus": []},
        conditions={"before": state, "after": state},
        options={"min_seconds": 2.0, "min_samples": 662, "rounds": 5},
        rows=[row, missing],
    )


def test_too_few_samples_are_named_without_a_number():
    text = markdown(record())
    assert "| 1.00 ms | too few samples (63 of 64) | too few samples (63 of 662) | 1.00 ms |" in text
    assert "not measured: no CUDA device" in text


def test_the_tables_conditions_stand_below_it():
    text = markdown(record())
    for output in (
        "at least 2 s and 662 calls",
        "A p90 needs 64 samples, a p99 662",
        "Cores 0, 1",
        "2600 MHz",
        "load 0.1",
    ):
        assert output in text
    assert "no int8 dot product" in text
    assert "2.00 ms | 5.0 MB | 1 kB" in text  # the median cold start


@pytest.mark.parametrize(
    ("architecture", "flags", "sentence"),
    [
        ("x86_64", ["avx2", "avx512_vnni"], "This CPU has int8 dot products (avx512_vnni)."),
        ("x86_64", ["avx2"], "This CPU has no int8 dot product: int8 gains less, and its sums can overflow"),
        ("aarch64", ["asimd"], "This CPU has no int8 dot product, so int8 gains less."),
        ("aarch64", ["asimddp", "i8mm"], "This CPU has int8 dot products (asimddp, i8mm)."),
        ("arm64", [], "This CPU does not tell its instructions"),
    ],
)
def test_the_table_says_whether_int8_is_fast(architecture, flags, sentence):
    table = record()
    table.device.cpu.architecture, table.device.cpu.flags = architecture, flags
    assert sentence in markdown(table)


def test_noise_and_an_endless_warm_up_are_named():
    assert "noisy" not in markdown(record())
    text = markdown(record(noisy=True, spread=0.42, settled=False))
    assert (
        "The machine was noisy: the medians of the rounds differ by more than 10% in 1 of 1 rows, by 42% at worst"
        in text
    )
    assert "The warm-up never settled in 1 of 1 rows." in text


def a_kits() -> KitRecord:
    """What run.py writes, with the figures that its samples give."""
    digest = hashlib.sha256(b"").hexdigest()
    packed = {"path": "models/m-fp32.onnx", "bytes": 1, "sha256": digest}
    model = {"model": "m", "args": {}, "image": [4, 4, 1], "classes": 2, "name": "m", "parameters": 1}
    row = untimed("models/m-fp32.onnx", "fp32", "onnxruntime", 1)
    turn = Turn([1_000_000] * 700, 0.7, 3, True)
    base = record()
    device = base.device.model_dump() | {"machine": None}
    return KitRecord.model_validate(
        base.model_dump()
        | {"rows": [measured(row, [turn])], "device": device, "format": FORMAT, "samples": [[[1_000_000] * 700]]}
        | {"candidates": [model | {"files": {"fp32": packed}}]}
    )


@pytest.mark.parametrize("made", [record, a_kits], ids=["benchmark", "kit"])
def test_the_command_renders_benchmark_and_kit_records(made, tmp_path, capsys):
    (tmp_path / "latency.json").write_text(made().model_dump_json())
    assert not rsd("latency", str(tmp_path / "latency.json"), str(tmp_path / "out"))
    assert (tmp_path / "out" / "latency.md").read_text() == markdown(made())
    assert markdown(made()) in capsys.readouterr().out
    assert (tmp_path / "out" / "latency.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "found none"), ("{}", "found: device: missing"), ('{"candidates": []}', "that a kit's run.py wrote in")],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, text, words):
    if text:
        (tmp_path / "latency.json").write_text(text)
    with pytest.raises(UserError, match=words):
        read(tmp_path / "latency.json")


def test_the_record_is_a_plot_too():
    assert svg(latencies(record(p99_ms=2.0))).startswith("<svg")
