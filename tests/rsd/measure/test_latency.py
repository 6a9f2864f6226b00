import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from rsd.measure import latency
from rsd.measure.latency import (
    Candidate,
    Plan,
    Row,
    Turn,
    measured,
    statistics,
    take_turns,
    untimed,
    warm_up,
)

MS = 1_000_000
QUICK = Plan(warmup_seconds=0, min_seconds=0, min_samples=10, rounds=3, cold_starts=0)


def row(file: str, batch: int) -> Row:
    return untimed(file, "fp32", "onnxruntime", 1, batch)


def test_statistics_are_numpys_own_over_all_samples():
    random = np.random.default_rng(0)
    for count in (662, 1000, 5003):
        samples = random.lognormal(size=count) * MS + 1
        rounds = [part.astype(int).tolist() for part in np.array_split(samples, 5)]
        result, every = statistics(rounds, 4), np.concatenate(rounds) / 1e6
        for q, figure in ((50, result["p50_ms"]), (90, result["p90_ms"]), (99, result["p99_ms"])):
            assert figure == np.percentile(every, q, method="higher")
            assert figure in every
        assert result["mean_ms"] == pytest.approx(every.mean())
        assert result["images_per_second"] == pytest.approx(4 * count / (every.sum() / 1000))
        assert result["round_medians_ms"] == pytest.approx([np.median(r) / 1e6 for r in rounds])


@pytest.mark.parametrize(
    ("samples", "known"),
    [(1, {"p50"}), (63, {"p50"}), (64, {"p50", "p90"}), (661, {"p50", "p90"}), (662, {"p50", "p90", "p99"})],
)
def test_a_percentile_with_too_few_samples_is_null(samples, known):
    result = statistics([[MS] * samples], 1)
    assert {key[:3] for key, value in result.items() if key.startswith("p") and value is not None} == known


def test_no_outlier_is_ever_removed():
    random = np.random.default_rng(1)
    for factor in (10, 1_000, 1_000_000):
        samples = random.integers(MS, 2 * MS, 700)
        spiked = samples.copy()
        spiked[random.integers(700)] = factor * MS
        without, having = (statistics([part.tolist()], 1) for part in (samples, spiked))
        assert having["samples"] == without["samples"] == 700
        assert having["mean_ms"] == pytest.approx(spiked.mean() / MS)
        assert having["mean_ms"] > without["mean_ms"]


def test_rounds_that_disagree_are_called_noisy():
    calm, loud = statistics([[100, 100], [104]], 1), statistics([[100, 100], [150]], 1)
    assert (calm["noisy"], loud["noisy"]) == (False, True)
    assert loud["spread"] == pytest.approx(50 / 125)


class Clock:
    """Time that only a call lets pass."""

    def __init__(self, monkeypatch, milliseconds):
        self.now, self.calls, self.milliseconds = 0, 0, milliseconds
        monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: self.now)

    def infer(self):
        self.now += int(self.milliseconds(self.calls) * MS)
        self.calls += 1


def test_a_warm_up_ends_when_two_windows_agree(monkeypatch):
    clock = Clock(monkeypatch, lambda call: max(1.0, 9.0 - call))
    calls, settled = warm_up(clock.infer, 0.005)
    assert settled
    assert clock.calls == calls >= 10  # not before it was as fast as it gets
    clock = Clock(monkeypatch, lambda call: 1.0)
    assert warm_up(clock.infer, 0.005) == (10, True)  # two windows of 5 ms


def test_a_warm_up_without_end_says_so(monkeypatch):
    clock = Clock(monkeypatch, lambda call: 1.1 ** (call // 3))
    assert not warm_up(clock.infer, 0.001)[1]
    outcome = measured(row("m.onnx", 1), [Turn([1, 1], 0.0, 3, True), Turn([1, 1], 0.0, 3, False)])
    assert (outcome["settled"], outcome["warmup_calls"]) == (False, 6)


def test_the_least_time_and_the_least_calls_hold(monkeypatch):
    clock = Clock(monkeypatch, lambda call: 1.0)
    assert len(latency.timed(clock.infer, 0.050, 10)) == 50
    assert len(latency.timed(clock.infer, 0.005, 10)) == 10


def test_candidates_take_turns_and_each_goes_first_once():
    opened = []

    def candidate(name, batch=1):
        @contextmanager
        def start():
            opened.append(name)
            yield lambda: None

        return Candidate(row(name, batch), start)

    turns = take_turns([candidate("a"), candidate("b"), candidate("c", batch=8)], QUICK)
    assert opened == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert all(len(one) == 3 and all(len(turn.nanoseconds) >= 4 for turn in one) for one in turns)


def test_offline_rows_need_no_samples_for_a_p99():
    plan = Plan(min_samples=662)
    assert [latency.samples_wanted(plan, batch) for batch in (1, 8)] == [662, 64]
    assert latency.samples_wanted(Plan(min_samples=10), 8) == 10


def test_a_fresh_process_tells_cold_start_and_memory(tiny_onnx):
    result = latency.fresh(tiny_onnx, 1, 1)
    assert result["cold_start_ms"][0] > 0
    peak, runtime = result["peak_memory_bytes"], result["runtime_memory_bytes"]
    assert peak is not None
    assert runtime is not None
    assert peak >= runtime > 10**6
    assert latency.fresh(tiny_onnx, 1, 0) == {}


def test_a_large_parent_adds_no_memory(tiny_onnx):
    ballast = np.ones(300_000_000, dtype=np.uint8)
    result = latency.fresh(tiny_onnx, 1, 1)
    assert (result["peak_memory_bytes"] or 0) < len(ballast)


def test_conditions_name_affinity_clock_and_load():
    assert set(latency.conditions()) == {"affinity", "clock_mhz", "governor", "load"}


def test_the_devices_half_needs_numpy_and_the_runtime():
    code = "import sys, rsd.measure.latency; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert not {"torch", "timm", "pydantic", "onnx", "pandas", "tqdm"} & loaded


def test_a_file_that_does_not_open_says_why(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="Protobuf parsing failed"):
        latency.fresh(tmp_path / "model.onnx", 1, 1)

    def long(*_):
        raise ValueError("no kernel for Resize (\n  opset 19\n)")

    monkeypatch.setattr(latency, "_fresh", long)
    monkeypatch.setattr(sys, "argv", ["latency", "onnxruntime", "model.onnx", "1"])
    with pytest.raises(SystemExit) as end:
        latency.main()
    assert str(end.value) == "no kernel for Resize ("
