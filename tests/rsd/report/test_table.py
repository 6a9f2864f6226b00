import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsd.machine.errors import UserError
from rsd.report.table import larger_int8, runs_on, size, summary
from rsd.run.paths import Run
from rsd.run.records import EngineRecord

from .conftest import start_from_weights, write, write_records


def test_every_model_has_parameters_accuracy_and_gain(out: Path) -> None:
    lines = summary(Run(out)).splitlines()
    teacher, scratch, rsd = lines[2:5]
    assert teacher.split()[:2] == ["teacher", "77,354"]
    assert scratch.startswith("scratch student")
    assert "3 seeds" in scratch
    assert rsd.startswith("RSD student")
    assert "points over scratch" in rsd


def test_a_fine_tuned_twin_is_not_from_scratch(out: Path) -> None:
    start_from_weights(out)
    text = summary(Run(out))
    assert "points over plain fine-tuning" in text
    assert "over scratch" not in text
    assert "\n(every student starts from weights/lite0 (SHA-256 0123456789ab); scratch is fine-tuned plainly)" in text


def test_every_file_has_size_latency_and_agreement(out: Path) -> None:
    text = summary(Run(out))
    (fp16,) = [line for line in text.splitlines() if line.startswith("rsd-2 fp16.onnx")]
    assert "61 kB" in fp16
    assert "99.72 %" in fp16
    assert fp16.count(" ms") == 2
    assert text.count("not measured: no CUDA device") == 2
    assert "on Intel(R) Xeon(R) Processor @ 2.60GHz, 2 cores" in text


def test_it_ends_with_the_path_of_the_report(out: Path) -> None:
    assert summary(Run(out)).endswith("report  not written yet")
    (out / "report.html").write_text("<!doctype html>")
    assert summary(Run(out)).endswith(f"report  {out / 'report.html'}")


def test_a_skipped_engine_says_why(out: Path) -> None:
    write(
        out / "engines" / "fp32" / "engine.json",
        {"status": "skipped", "precision": "fp32", "library": "auto", "reason": "no TensorRT library can build here"},
    )
    assert "fp32 engine" in summary(Run(out))
    assert "skipped: no TensorRT library can build here" in summary(Run(out))


def test_a_larger_int8_engine_is_explained(out: Path) -> None:
    def engines(**sizes: int) -> list[EngineRecord]:
        return [
            EngineRecord(status="built", precision=name, library="tensorrt", bytes=count)
            for name, count in sizes.items()
        ]

    assert "kernels" in (larger_int8(engines(fp32=18, fp16=15, int8=24)) or "")
    assert larger_int8(engines(fp32=18, int8=17)) is None
    assert larger_int8(engines(int8=17)) is None
    file = out / "params" / "run.json"
    write(file, json.loads(file.read_text()) | {"precisions": ["fp32", "int8"]})
    for precision, count in (("fp32", 1_800_000), ("int8", 2_400_000)):
        record = json.loads((out / "engines" / "fp32" / "engine.json").read_text())
        (out / "engines" / precision).mkdir(exist_ok=True)
        write(out / "engines" / precision / "engine.json", record | {"precision": precision, "bytes": count})
    assert "int8 engine is larger" in summary(Run(out))


def test_a_tail_without_enough_samples_stays_empty(out: Path) -> None:
    path = out / "benchmark" / "latency.json"
    record = json.loads(path.read_text())
    for row in record["rows"]:
        row["p99_ms"] = None
    write(path, record)
    assert "too few samples" in summary(Run(out))


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    write_records(tmp_path, seeds=(0,))
    assert "±" not in summary(Run(tmp_path))
    assert "1 seed," in summary(Run(tmp_path))


def test_it_prints_without_the_later_stages(out: Path) -> None:
    for name in ("export", "convert", "engines", "benchmark"):
        shutil.rmtree(out / name)
    assert "none exported yet" in summary(Run(out))


def test_no_line_is_wider_than_a_terminal(out: Path) -> None:
    assert max(map(len, summary(Run(out)).splitlines())) <= 110


def test_before_the_first_run_it_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `make repro`"):
        summary(Run(tmp_path / "out"))


def test_it_needs_none_of_the_heavy_libraries() -> None:
    script = (
        "import sys, rsd.report.table; print([m for m in ('torch', 'pandas', 'numpy', 'altair') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(("count", "words"), [(12, "12 B"), (61_200, "61 kB"), (2_400_000, "2.4 MB")])
def test_sizes_are_decimal(count: int, words: str) -> None:
    assert size(count) == words


@pytest.mark.parametrize(
    ("runtime", "threads", "words"),
    [
        ("onnxruntime", 1, "ONNX Runtime, 1 thread"),
        ("onnxruntime", 4.0, "ONNX Runtime, 4 threads"),
        ("tensorrt_rtx", float("nan"), "TensorRT for RTX"),
        ("tensorrt", None, "TensorRT"),
    ],
)
def test_a_files_runtime_is_named_in_words(runtime: str, threads: object, words: str) -> None:
    assert runs_on(runtime, threads) == words


def test_another_students_figures_are_left_out_with_cause(out: Path) -> None:
    path = out / "students" / "rsd-2" / "student.json"
    write(path, json.loads(path.read_text()) | {"weights_sha256": "other"})  # trained anew, but no more
    path = out / "evaluate" / "models.json"
    models = json.loads(path.read_text())
    write(path, [m | {"weights_sha256": "other"} if m["model"] == "rsd-2" else m for m in models])
    text = summary(Run(out))
    assert "rsd-2 fp32.onnx" not in text
    assert text.count(" left out: ") == 1
    assert " are left out: students/rsd-2/model.safetensors is another by now; run `dvc repro`" in text
    assert not text.rstrip().endswith("report.html")
    assert "RSD student" in text


def test_a_file_shows_its_fastest_number_of_threads(out: Path) -> None:
    path = out / "benchmark" / "latency.json"
    record = json.loads(path.read_text())
    timed = [row for row in record["rows"] if (row["runtime"], row["precision"]) == ("onnxruntime", "fp32")]
    for threads, faster in ((1, 2), (2, 1)):
        for row in timed:
            row["p50_ms"] = 9.0 if row["threads"] == threads else 8.0
        write(path, record)
        (line,) = [line for line in summary(Run(out)).splitlines() if "fp32.onnx" in line]
        assert f"ONNX Runtime, {faster} thread" in line
