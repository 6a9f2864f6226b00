"""What the stage makes of parity, which on this machine a fake engine has."""

from types import SimpleNamespace

import numpy as np
import pytest

from rsd.errors import UserError
from rsd.export.parity import compare
from rsd.files import write_json
from stages import engine

LABELS = np.arange(40) % 10
REFERENCE = np.eye(10, dtype=np.float32)[LABELS] * 10


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "out/params/export.json", {"gates": {}})
    (tmp_path / "out/export/fp32").mkdir(parents=True)
    np.save(tmp_path / "out/export/fp32/logits.npy", REFERENCE)
    monkeypatch.setattr(engine, "read_split", lambda folder, name: SimpleNamespace(images=None, labels=LABELS))
    return tmp_path


def says(monkeypatch, logits):
    def parity(folder, *, onnx, images, labels, reference, near_tie):
        return logits if isinstance(logits, str) else compare(reference, logits, labels, near_tie=near_tie)

    monkeypatch.setattr(engine, "engine_parity", parity)


def test_an_engine_that_says_what_its_graph_says_passes(exported, monkeypatch):
    says(monkeypatch, REFERENCE)
    record = engine.parity(exported, "fp32")
    assert isinstance(record, dict)
    assert record["max_difference"] == 0


def test_an_engine_that_strays_from_its_graph_stops_the_stage(exported, monkeypatch):
    says(monkeypatch, REFERENCE + np.linspace(0, 1, 10, dtype=np.float32))
    with pytest.raises(UserError, match="the fp32 engine .* of the logit range"):
        engine.parity(exported, "fp32")


def test_an_engine_that_cannot_run_here_stops_nothing(exported, monkeypatch):
    says(monkeypatch, "not measured: no CUDA device")
    assert engine.parity(exported, "fp32") == "not measured: no CUDA device"
