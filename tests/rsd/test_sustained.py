import json
import sys

import numpy as np
import pytest

from rsd import sustained as module
from rsd.errors import UserError
from rsd.sustained import sustained, verdict


def windows(medians):
    return [{"p50_ms": float(median)} for median in medians]


def test_the_drift_is_the_last_tenth_over_the_first():
    assert verdict(windows([1.0] * 6 + [1.02] * 48 + [1.05] * 6)).startswith("p50 went from 1.00 ms to 1.05 ms, +5.0%")
    assert "noisy" not in verdict(windows([1.0] * 60))


def test_a_dip_in_between_is_not_hidden():
    assert "the windows in between differ by 100%: the machine was noisy" in verdict(
        windows([1.0] * 30 + [2] + [1] * 29)
    )


def test_every_call_is_in_a_window():
    calls: list[int] = []
    found, samples = sustained(lambda: calls.append(1), 0.06)
    assert len(found) == len(samples) == module.WINDOWS
    assert len(calls) == sum(map(len, samples)) == sum(window["samples"] for window in found)


def test_the_command_writes_samples_record_words_and_plot(tiny_onnx, tmp_path, monkeypatch, capsys):
    arguments = ["x", str(tiny_onnx), "--for", "0.1s", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()
    assert "p50 went from" in capsys.readouterr().out
    record = json.loads((tmp_path / "sustained.json").read_text())
    raw = np.load(tmp_path / "samples.npz")
    assert len(raw["nanoseconds"]) == sum(window["samples"] for window in record["windows"])
    assert (tmp_path / "sustained.svg").read_text().startswith("<svg")


def test_a_missing_model_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "none.onnx")])
    with pytest.raises(UserError, match="expected an ONNX file at"):
        module.main()
