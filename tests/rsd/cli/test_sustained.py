import json
import sys

import numpy as np
import pytest

from rsd.cli import sustained as module
from rsd.cli.sustained import sustained, verdict
from rsd.machine.errors import UserError
from rsd.report.charts.speed import drift


def windows(medians, p99=None):
    return [{"seconds": 10.0 * i, "p50_ms": float(m), "p99_ms": p99 and p99 * (i + 1)} for i, m in enumerate(medians)]


def test_the_drift_is_the_last_tenth_over_the_first():
    assert verdict(windows([1.0] * 6 + [1.02] * 48 + [1.05] * 6)).startswith("p50 went from 1.00 ms to 1.05 ms, +5.0%")
    assert "noisy" not in verdict(windows([1.0] * 60))


def test_a_dip_in_between_is_not_hidden():
    assert "the p50 of the windows in between differ by 100%: the machine was noisy" in verdict(
        windows([1.0] * 30 + [2] + [1] * 29)
    )


def test_a_tail_that_grows_is_said_and_has_a_panel_of_its_own():
    grows = windows([1.0] * 60, p99=10.0)
    assert "p99 from 35.0 ms to 575 ms" in verdict(grows)
    panels = drift(grows).to_dict()["vconcat"]
    assert [panel["encoding"]["y"]["title"] for panel in panels] == ["p50 at batch 1, ms", "p99 at batch 1, ms"]
    assert "p99" not in verdict(windows([1.0] * 60))
    assert len(drift(windows([1.0] * 60)).to_dict()["vconcat"]) == 1


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
