"""Latency of ONNX files, as MLPerf measures it.

This module needs a runtime and numpy only. A kit holds a copy of it, so that a device measures as the `benchmark` stage
does. Latency is from images in the host's memory to logits there. Nothing is removed from the samples, and a percentile
is stated only where there are enough of them.
"""

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from rsd.machine.errors import first_line

# The fewest samples that a percentile may be read from (MLPerf Inference, early stopping).
SAMPLES_NEEDED = {50: 1, 90: 64, 99: 662}
NOISY_SPREAD = 0.1
SETTLED = 0.05
WINDOW_CALLS = 3
MOST_WINDOWS = 10

Infer = Callable[[], Any]


@dataclass(frozen=True)
class Plan:
    """How long a model is timed; seconds and samples are per row, over all rounds."""

    warmup_seconds: float = 0.1
    """Length of a warm-up window; see `warm_up`."""
    min_seconds: float = 2.0
    min_samples: int = SAMPLES_NEEDED[99]
    rounds: int = 5
    cold_starts: int = 3
    """Fresh processes per file; 0 leaves cold start and memory unmeasured."""


class Turn(NamedTuple):
    """One model's share of one round."""

    nanoseconds: list[int]
    """Of each call, in order."""
    cpu_seconds: float
    """Of all threads of this process over these calls; it does not grow when others take the machine."""
    warmup_calls: int
    settled: bool
    """Whether the last two windows of the warm-up agreed."""


class Conditions(TypedDict):
    """What may change between two measurements on one device; None is not known."""

    affinity: list[int] | None
    clock_mhz: list[int] | None
    governor: list[str] | None
    load: float | None


class Row(TypedDict, total=False):
    """A row of the record before it is timed; `rsd.run.records.Latency` explains the keys, as those below."""

    file: str
    precision: str
    runtime: str
    threads: int | None
    scenario: str
    batch: int
    file_bytes: int | None
    cold_start_ms: list[float]
    peak_memory_bytes: int | None
    runtime_memory_bytes: int | None


class Outcome(Row, total=False):
    """A row after that; figures only if it was measured."""

    status: str
    samples: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    images_per_second: float
    round_medians_ms: list[float]
    spread: float
    noisy: bool
    cpu_ms: float
    warmup_calls: int
    settled: bool


class Candidate(NamedTuple):
    """What is to be timed: its row without figures, and how to open it."""

    row: Row
    start: Callable[[], AbstractContextManager[Infer]]


def take_turns(
    candidates: Sequence[Candidate], plan: Plan, *, progress: Callable[[str], object] = lambda _: None
) -> list[list[Turn]]:
    """Time all candidates in interleaved rounds: `[candidate][round]`.

    A machine that slows down or heats up so hits all of them alike; each round starts with another one, so that none
    always follows the same. Only one is open at a time: idle threads of a runtime spin.
    """
    turns: list[list[Turn]] = [[] for _ in candidates]
    for number in range(plan.rounds):
        for index in [int(i) for i in np.roll(np.arange(len(candidates)), -number)]:
            candidate = candidates[index]
            least = math.ceil(samples_wanted(plan, candidate.row["batch"]) / plan.rounds)
            with candidate.start() as infer:
                calls, settled = warm_up(infer, plan.warmup_seconds)
                start = time.process_time()
                nanoseconds = timed(infer, plan.min_seconds / plan.rounds, least)
                turns[index].append(Turn(nanoseconds, time.process_time() - start, calls, settled))
            progress(f"round {number + 1} of {plan.rounds}: {candidate.row['file']}")
    return turns


def samples_wanted(plan: Plan, batch: int) -> int:
    """The fewest samples of a row. A batch above 1 measures throughput (offline), which needs no p99."""
    return plan.min_samples if batch == 1 else min(plan.min_samples, SAMPLES_NEEDED[90])


def warm_up(infer: Infer, seconds: float) -> tuple[int, bool]:
    """Call until the medians of two successive windows differ by less than 5 %: how many calls, and whether they did.

    A window lasts `seconds` and at least 3 calls. After 10 windows that disagree the warm-up gives up.
    """
    calls, before = 0, None
    for _ in range(MOST_WINDOWS):
        window = timed(infer, seconds, WINDOW_CALLS)
        calls += len(window)
        median = float(np.median(window))
        if before is not None and abs(median - before) < SETTLED * before:
            return calls, True
        before = median
    return calls, False


def timed(infer: Infer, seconds: float, least: int) -> list[int]:
    """Call `infer` for at least `seconds` and at least `least` times; the nanoseconds of every call."""
    samples: list[int] = []
    now = time.perf_counter_ns
    stop = now()
    end = stop + int(seconds * 1e9)
    while len(samples) < least or stop < end:
        start = now()
        infer()
        stop = now()
        samples.append(stop - start)
    return samples


def statistics(rounds: Sequence[Sequence[int]], batch: int) -> Outcome:
    """Figures of one row from all of its samples, nanoseconds per round of a call on `batch` images.

    Percentiles are samples that occurred (numpy's `higher`); with too few samples they are None.
    """
    samples = np.concatenate([np.asarray(r, dtype=np.float64) for r in rounds]) / 1e6
    medians = [float(np.median(r)) / 1e6 for r in rounds]
    spread = (max(medians) - min(medians)) / float(np.median(medians))

    def percentile(q: int) -> float:
        return float(np.percentile(samples, q, method="higher"))

    return {
        "samples": len(samples),
        "mean_ms": float(samples.mean()),
        "p50_ms": percentile(50),
        "p90_ms": percentile(90) if len(samples) >= SAMPLES_NEEDED[90] else None,
        "p99_ms": percentile(99) if len(samples) >= SAMPLES_NEEDED[99] else None,
        "images_per_second": batch * 1000 / float(samples.mean()),
        "round_medians_ms": medians,
        "spread": spread,
        "noisy": spread > NOISY_SPREAD,
    }


def measured(row: Row, turns: Sequence[Turn]) -> Outcome:
    """`row` with its figures."""
    calls = sum(len(turn.nanoseconds) for turn in turns)
    return {
        **row,
        "status": "measured",
        **statistics([turn.nanoseconds for turn in turns], row["batch"]),
        "cpu_ms": 1000 * sum(turn.cpu_seconds for turn in turns) / calls,
        "warmup_calls": sum(turn.warmup_calls for turn in turns),
        "settled": all(turn.settled for turn in turns),
    }


def image(shape: Sequence[Any], batch: int = 1) -> np.ndarray:
    """Noise, uint8 `[batch, H, W, C]`; what it shows does not change the work."""
    return np.random.default_rng(0).integers(0, 256, (batch, *shape[1:]), dtype=np.uint8)


@contextmanager
def session(runtime: str, path: Path, threads: int = 1, batch: int = 1) -> Iterator[Infer]:
    """A file with one uint8 input `[N, H, W, C]`, open in a runtime of `rsd.export.runtimes`: a call on one batch."""
    from rsd.export import runtimes  # here, so that a fresh process can tell its own memory from the runtime's

    with runtimes.get(runtime).open(path, threads=threads) as opened:
        yield opened.call(image((1, *opened.shape), batch))


def onnx_candidate(
    path: Path, *, precision: str, threads: int, batch: int = 1, file: str | None = None, runtime: str = "onnxruntime"
) -> Candidate:
    """An ONNX file at batch 1 (single stream: one image after another) or more (offline: batch after batch)."""
    row = untimed(file or str(path), precision, runtime, threads, batch, path.stat().st_size)
    return Candidate(row, functools.partial(session, runtime, path, threads, batch))


def untimed(
    file: str, precision: str, runtime: str, threads: int | None, batch: int = 1, file_bytes: int | None = None
) -> Row:
    """A row by what is timed; `scenario` is MLPerf's name of what is done with batches of this size."""
    scenario = "single stream" if batch == 1 else "offline"
    row: Row = {"file": file, "precision": precision, "runtime": runtime, "threads": threads, "scenario": scenario}
    return {**row, "batch": batch, "file_bytes": file_bytes}


def fresh(path: Path, threads: int, times: int, *, runtime: str = "onnxruntime") -> Row:
    """Cold start and memory of an ONNX file, each time in a process of its own that does nothing else.

    Returns:
        `cold_start_ms`: of each process, from before the session is made to after its first inference. It leaves out
        the import of the runtime, and the file may be in the system's cache. `peak_memory_bytes`: of the whole process,
        the largest. `runtime_memory_bytes`: of Python and the runtime before the file is opened.
    """
    home = str(Path(__file__).parents[2])
    paths = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    answers = []
    for _ in range(times):
        command = [sys.executable, "-m", "rsd.measure.latency", runtime, str(path), str(threads)]
        process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
        if process.returncode < 0:
            raise RuntimeError(f"signal {-process.returncode} killed the process that opened it")
        if process.returncode:
            raise RuntimeError((process.stderr.strip().splitlines() or ["the process that opened it ended"])[-1])
        answers.append(json.loads(process.stdout))
    if not answers:
        return {}
    peaks = [one["peak_memory_bytes"] for one in answers]
    return {
        "cold_start_ms": [one["cold_start_ms"] for one in answers],
        "peak_memory_bytes": None if None in peaks else max(peaks),
        "runtime_memory_bytes": answers[0]["runtime_memory_bytes"],
    }


def _fresh(runtime: str, path: Path, threads: int) -> dict[str, float | None]:
    from rsd.export import runtimes

    runtimes.get(runtime).load()  # before the clock starts
    before = peak_memory()
    started = time.perf_counter_ns()
    with session(runtime, path, threads) as infer:
        infer()
        elapsed = time.perf_counter_ns() - started
    return {"cold_start_ms": elapsed / 1e6, "peak_memory_bytes": peak_memory(), "runtime_memory_bytes": before}


def peak_memory() -> int | None:
    """The peak memory of this process in bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: its figure is inherited from the parent, which may be far larger.
        lines = [line.split() for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(lines[0][1]) * 1024 if lines else None
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def conditions() -> Conditions:
    """The conditions now."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    frequency = [Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq") for cpu in cpus or []]
    return {
        "affinity": cpus,
        "clock_mhz": _clock(frequency),
        "governor": sorted({text for folder in frequency if (text := _text(folder / "scaling_governor"))}) or None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _clock(frequency: Sequence[Path]) -> list[int] | None:
    """MHz of each core that this process may use, now; a virtual machine states one that never changes."""
    now = [text for folder in frequency if (text := _text(folder / "scaling_cur_freq"))]
    if now:
        return [round(int(text) / 1000) for text in now]
    lines = (_text(Path("/proc/cpuinfo")) or "").splitlines()
    return [round(float(line.split(":")[1])) for line in lines if line.startswith("cpu MHz")] or None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Cold start and memory of an ONNX file in this process; see `fresh`.")
    parser.add_argument("runtime")
    parser.add_argument("path", type=Path)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    try:
        answer = _fresh(arguments.runtime, arguments.path, arguments.threads)
    except Exception as error:  # of any runtime; the last line of a longer message says little, or just ")"
        sys.exit(first_line(error))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
