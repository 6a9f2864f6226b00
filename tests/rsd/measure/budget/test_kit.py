"""A kit is written, run where nothing of the project is installed, and believed only if it holds together."""

import ast
import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.measure.budget import choose
from rsd.measure.budget.kit import LADDER, arguments, opened, write_kit
from rsd.measure.budget.records import TrainedStudent, read_device
from rsd.measure.latency import Plan
from rsd.models.make import ModelOptions
from rsd.run.paths import Run
from tests.command import rsd

pytestmark = pytest.mark.xdist_group("kit")

SHAPE, CLASSES = (16, 16, 1), 10
PLAN = Plan(warmup_seconds=0, min_seconds=0, min_samples=662, rounds=2, cold_starts=1)
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
STUDENTS = [
    ModelOptions(name="vit_tiny_patch16_224", args=VIT),
    ModelOptions(name="vit_tiny_patch16_224", args=VIT | {"embed_dim": 16}),
    ModelOptions(name="edgenext_xx_small"),  # takes no images of 16 x 16
]


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    lines: list[str] = []
    folder = tmp_path_factory.mktemp("kit") / "kit"
    write_kit(folder, STUDENTS, image_shape=SHAPE, classes=CLASSES, plan=PLAN, say=lines.append)
    assert any("edgenext_xx_small is left out" in line for line in lines)
    return folder


@pytest.fixture(scope="module")
def answer(kit, tmp_path_factory):
    """What run.py writes on a device: only numpy, onnxruntime and the standard library can be imported there."""
    home = tmp_path_factory.mktemp("device")
    moved = shutil.copytree(kit, home / "kit")
    packages = home / "packages"
    packages.mkdir()
    site = Path(onnxruntime.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "onnxruntime", "onnxruntime.libs", "flatbuffers", "packaging", "google"):
        if (site / name).exists():
            (packages / name).symlink_to(site / name)
    hidden = "import torch" if (packages / "torch").exists() else ""
    assert not hidden
    command = [sys.executable, "-S", str(moved / "run.py"), "--threads", "1", "--out", str(home / "latency.json")]
    done = subprocess.run(
        command, cwd=home, env={"PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return home / "latency.json"


def test_a_kit_holds_every_student_in_every_precision(kit):
    held = {str(path.relative_to(kit)) for path in kit.rglob("*") if path.is_file()}
    names = ("vit_tiny_patch16_224", "vit_tiny_patch16_224_2")
    models = {f"models/{name}-{precision}.onnx" for name in names for precision in ("fp32", "fp16", "int8")}
    machine = {f"rsd/machine/{name}.py" for name in ("__init__", "fingerprint", "cuda", "errors", "modules")}
    runtimes = {f"rsd/export/runtimes/{name}.py" for name in ("__init__", "base", "onnxruntime")}
    modules = machine | runtimes | {"rsd/__init__.py", "rsd/measure/__init__.py", "rsd/measure/latency.py"}
    assert held == {"kit.json", "run.py"} | modules | models


def test_the_runner_needs_onnxruntime_and_numpy_only(answer):
    record = read_device(answer)
    assert [row.status for row in record.rows] == ["measured"] * 6
    assert all(row.p99_ms and (row.samples or 0) >= 662 and row.cold_start_ms for row in record.rows)


def test_an_older_python_is_refused_first(kit):
    part, runner = (kit / "rsd" / "__init__.py").read_text(), (kit / "run.py").read_text()
    for text in (part, runner):
        ast.parse(text, feature_version=(3, 8))  # it comes as far as that
    lines = [line for line in runner.splitlines() if line.startswith(("import ", "from ", "def "))]
    ours = next(number for number, line in enumerate(lines) if line.startswith("from rsd."))
    assert not any(line.startswith("def ") for line in lines[:ours])
    # As Python 3.9 reads it.
    code = f"import sys; sys.version_info = (3, 9, 0); exec({part!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: expected Python 3.10 or newer, found 3.9; start run.py with a newer one\n"


def test_int8_weights_are_int8(kit):
    sizes = {p: (kit / "models" / f"vit_tiny_patch16_224-{p}.onnx").read_bytes() for p in ("fp32", "int8")}
    assert b"QuantizeLinear" in sizes["int8"]
    assert b"QuantizeLinear" not in sizes["fp32"]


def test_untrained_students_answer_with_finite_and_different_logits(kit):
    session = onnxruntime.InferenceSession(kit / "models" / "vit_tiny_patch16_224-fp16.onnx")
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), dtype=np.uint8)
    (logits,) = session.run(None, {"image": images})
    assert np.isfinite(logits).all()
    assert logits.std() > 1e-3


def test_a_damaged_file_is_not_timed(kit, tmp_path):
    moved = shutil.copytree(kit, tmp_path / "kit")
    (moved / "models" / "vit_tiny_patch16_224-fp32.onnx").write_bytes(b"half")
    command = [sys.executable, str(moved / "run.py"), "--out", str(tmp_path / "latency.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected models/vit_tiny_patch16_224-fp32.onnx as it was packed" in done.stderr
    assert not (tmp_path / "latency.json").exists()


def test_the_same_kit_gives_the_same_archive(tmp_path):
    plan, one = replace(PLAN, min_samples=1), STUDENTS[:1]
    first, second = tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"
    for path in (first, second):
        write_kit(path, one, image_shape=SHAPE, classes=CLASSES, precisions=["fp32"], plan=plan)
    assert first.read_bytes() == second.read_bytes()
    with opened(first) as folder:
        assert (folder / "run.py").is_file()


@pytest.mark.parametrize("name", ["../escaped", "/escaped"])
def test_an_archive_cannot_write_outside(tmp_path, name):
    path = tmp_path / "kit.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="expected a kit"), opened(path):
        pass
    assert not (tmp_path.parent / "escaped").exists()


def test_the_ladder_spans_third_to_ten_million_parameters():
    assert len(LADDER) == len(set(LADDER)) >= 8
    assert [ModelOptions(name=name, args=arguments(name, 32)).name for name in LADDER] == list(LADDER)
    assert arguments("vit_tiny_patch16_224", 224) == {"img_size": 224, "patch_size": 16}


@pytest.mark.slow
def test_the_default_ladder_packs_for_the_smallest_images(tmp_path):
    lines: list[str] = []
    students = [ModelOptions(name=name, args=arguments(name, 16)) for name in LADDER]
    packed = write_kit(tmp_path / "kit", students, image_shape=(16, 16, 1), classes=10, plan=PLAN, say=lines.append)
    assert not [line for line in lines if "left out" in line]
    assert [one.model for one in packed] == list(LADDER)
    assert all(set(one.files) == {"fp32", "fp16", "int8"} for one in packed)
    millions = [one.parameters / 1e6 for one in packed]
    assert min(millions) == pytest.approx(0.3, abs=0.2), millions
    assert max(millions) == pytest.approx(10, abs=2), millions


BROKEN = {
    "no JSON": lambda record: b"{",
    "not text": lambda record: b"\xff\xfe\x00",
    "nested without end": lambda record: b"[" * 100_000,
    "a number": lambda record: b"1",
    "no device": lambda record: record | {"device": {}},
    "another format": lambda record: record | {"format": 99},
    "an unknown key": lambda record: record | {"more": 1},
    "no candidates": lambda record: record | {"candidates": []},
    "a figure that was put in": lambda record: _row(record, p99_ms=0.001),
    "a negative batch": lambda record: _row(record, batch=-1),
    "not a number": lambda record: _row(record, mean_ms=float("nan")),
    "a sample removed": lambda record: (
        record | {"samples": [[r[1:] for r in record["samples"][0]], *record["samples"][1:]]}
    ),
    "no samples": lambda record: record | {"samples": []},
    "control characters": lambda record: (
        record | {"device": {**record["device"], "cpu": {"name": "\x1b[2J", "logical_cores": 1}}}
    ),
}


def _row(record, **changes):
    return record | {"rows": [record["rows"][0] | changes, *record["rows"][1:]]}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_malformed_device_json_is_refused(answer, tmp_path, fault):
    broken = BROKEN[fault](json.loads(answer.read_text()))
    path = tmp_path / "latency.json"
    path.write_bytes(broken if isinstance(broken, bytes) else json.dumps(broken).encode())
    with pytest.raises(
        UserError, match=r"expected the JSON that a kit's run.py wrote in .*, found: .*; run the kit again"
    ):
        read_device(path)


def test_the_commands_say_what_fits_a_device(answer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "error: expected latencies of a device, found none" in rsd("budget", "show", "--p99", "5")
    assert not rsd("budget", "import", str(answer), "--name", "board")
    assert (tmp_path / "budget" / "devices" / "board.json").read_bytes() == answer.read_bytes()
    capsys.readouterr()
    rsd("budget", "show", "--p99", "1000")
    lines = capsys.readouterr().out
    assert "0 of 6 do not fit a p99 of 1000 ms" in lines
    assert lines.count("not trained") == 6
    assert "no student that was trained here fits" in lines
    assert "no plot: none of these was trained here yet" in lines
    trained = TrainedStudent(
        model=STUDENTS[1].name,
        args=STUDENTS[1].args,
        image=SHAPE,
        classes=CLASSES,
        data="digits",
        student="rsd-0",
        top1={"fp32": 97.0, "int8": 96.0},
        images=540,
        parameters=1000,
    )
    write_json(tmp_path / "budget" / "trained.json", {"students": [trained.model_dump(mode="json")]})
    rsd("budget", "show", "--p99", "1000")
    lines = capsys.readouterr().out
    assert "the best is vit_tiny_patch16_224_2 fp32 (rsd-0), 97.00 %" in lines
    assert (tmp_path / "out" / "budget.svg").read_text().startswith("<svg")
    fits = min(row.p99_ms or 0.0 for row in choose.rows(tmp_path / "budget", Run(tmp_path / "out")))
    rsd("budget", "show", "--p99", str(fits / 2))
    assert "6 of 6 do not fit" in capsys.readouterr().out


def test_a_name_that_leads_elsewhere_is_refused(answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "expected a name of letters" in rsd("budget", "import", str(answer), "--name", "../elsewhere")
