"""What the stage makes of parity, which on this machine a fake engine has."""

from types import SimpleNamespace

import numpy as np
import pytest

from rsd.export.parity import compare
from rsd.export.tensorrt import EngineOptions
from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.run.paths import Run
from rsd.run.records import Comparison, ConvertRecord, Pair, Parity
from stages import engine
from tests.rsd.run.small import PARITY

LABELS = np.arange(40) % 10
REFERENCE = np.eye(10, dtype=np.float32)[LABELS] * 10


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "out/params/export.json", {"gates": {}})
    write_json(tmp_path / "out/params/engine.json", {})
    (tmp_path / "out/convert/fp32").mkdir(parents=True)
    np.save(tmp_path / "out/convert/fp32/logits.npy", REFERENCE)
    pair = Pair(file="model.onnx", bytes=1, sha256="0", parity=Parity(rung="fp32", **PARITY))
    Run().write(ConvertRecord(student="rsd-0", precision="fp32", ladder=[], pairs={"tensorrt": pair}))
    Run().write(ConvertRecord(student="rsd-0", precision="int8", ladder=[], pairs={}, lost={"tensorrt": "it strays"}))
    monkeypatch.setattr(engine, "read_split", lambda folder, name: SimpleNamespace(images=np.arange(40), labels=LABELS))
    return tmp_path


def says(monkeypatch, logits):
    def parity(folder, *, onnx, images, labels, reference, near_tie, what):
        return logits if isinstance(logits, str) else compare(reference, logits, labels, near_tie=near_tie, what=what)

    monkeypatch.setattr(engine, "engine_parity", parity)


def test_no_engine_is_built_without_its_file(exported, monkeypatch):
    monkeypatch.setattr("sys.argv", ["engine", "int8"])
    engine.main()
    record = Run().engine("int8")
    assert (record.status, record.reason) == ("skipped", "it strays")


def test_an_engine_that_agrees_with_its_graph_passes(exported, monkeypatch):
    says(monkeypatch, REFERENCE)
    record = engine.parity(exported, "fp32", EngineOptions())
    assert isinstance(record, Comparison)
    assert record.max_difference == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.eye(40, 10, k=-7, dtype=np.float32), "the fp32 engine differs from its ONNX file by .*: 7, 8, 9, 10, 11"),
        (np.nan, "expected finite logits of the fp32 engine, found NaN .*0, 1, 2, 3, 4"),
    ],
)
def test_an_engine_that_strays_stops_the_stage(exported, monkeypatch, wrong, words):
    def parting(onnx, images, options, *, precision, folder):
        assert options.max_batch == 8
        return f"they part at images {images.tolist()}"

    monkeypatch.setattr(engine, "engine_parting", parting)
    says(monkeypatch, REFERENCE + wrong)
    with pytest.raises(UserError, match=f"{words}.*; they part at images "):
        engine.parity(exported, "fp32", EngineOptions())


def test_an_engine_that_cannot_run_here_stops_nothing(exported, monkeypatch):
    says(monkeypatch, "not measured: no CUDA device")
    assert engine.parity(exported, "fp32", EngineOptions()) == "not measured: no CUDA device"
