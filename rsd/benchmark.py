"""Latency of exported models at batch 1, as MLPerf's single stream: one image after another, nothing removed.

Latency is from an image in the host's memory to logits in the host's memory. Models take turns over
several rounds, so that a machine that slows down or warms up hits all of them alike. Nothing else should
run beside a benchmark.
"""

import csv
import gzip
import importlib
import io
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from pydantic import BaseModel, Field
from tqdm import tqdm

from rsd.device import cores
from rsd.export.tensorrt import measurable
from rsd.files import read_json, write_json, written_aside
from rsd.options import Options

# The fewest samples that a percentile may be read from (MLPerf Inference, early stopping).
SAMPLES_NEEDED = {50: 1, 90: 64, 99: 662}
NOISY_SPREAD = 0.1
SAMPLE_COLUMNS = ("file", "precision", "threads", "round", "nanoseconds")


class BenchmarkOptions(Options):
    """How long each model is timed; seconds and samples are per row of the result, over all rounds."""

    warmup_seconds: float = Field(default=0.5, ge=0)
    """Untimed, before each round of each model."""
    min_seconds: float = Field(default=5.0, ge=0)
    min_samples: int = Field(default=662, ge=1)
    """662 is the least that a 99th percentile can be read from."""
    rounds: int = Field(default=5, ge=1)


class Latency(BaseModel):
    """One row of the result: a file, on one runtime, with one number of threads. All `_ms` are per image."""

    file: str
    precision: str
    runtime: str
    threads: int | None
    """CPU threads within an operator; None for an engine."""
    status: str
    """`measured`, or why not; then all that follows is None."""
    samples: int | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    """A percentile with too few samples is None."""
    images_per_second: float | None = None
    round_medians_ms: list[float] | None = None
    spread: float | None = None
    """(largest - smallest) / median of the rounds' medians."""
    noisy: bool | None = None
    """The spread is above 0.1: something else ran, or the clock changed; measure again."""


Infer = Callable[[], Any]


class _Candidate(NamedTuple):
    row: Latency
    start: Callable[[], AbstractContextManager[Infer]]


def benchmark(
    onnx: Mapping[str, Path],
    engines: Mapping[str, Path],
    options: BenchmarkOptions,
    *,
    device: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Time ONNX files on the CPU, with one thread and with all cores, and engines on the GPU if there is one.

    Args:
        onnx: precision -> `model.onnx`, with one uint8 input `[N, H, W, C]`.
        engines: precision -> folder with `engine.json` and, unless it says skipped, `model.engine`.
        device: `rsd.device.fingerprint()`, kept in the record.
        folder: gets `latency.json` and all raw samples in `samples.csv.gz`.

    Returns:
        What is in `latency.json`: `device`, `options` and `rows` (see `Latency`).
    """
    candidates, missing = [], []
    for precision, path in onnx.items():
        for threads in sorted({1, cores()}):
            row = _row(path, precision, "onnxruntime", threads)
            candidates.append(_Candidate(row, lambda p=path, t=threads: _onnx_session(p, t)))  # type: ignore[misc]
    for precision, engine_folder in engines.items():
        record = read_json(engine_folder / "engine.json")
        path = engine_folder / "model.engine"
        row = _row(path, precision, record.get("library", "tensorrt"), None)
        reason = _why_not(record, path)
        if reason:
            missing.append(row.model_copy(update={"status": reason}))
        else:
            candidates.append(_Candidate(row, lambda p=path, r=record: _engine_session(p, r)))  # type: ignore[misc]

    times = _take_turns(candidates, options)
    rows = [summary(c.row, nanoseconds) for c, nanoseconds in zip(candidates, times, strict=True)]
    result = {
        "device": device,
        "options": options.model_dump(),
        "rows": [row.model_dump() for row in [*rows, *missing]],
    }
    with written_aside(folder / "samples.csv.gz") as aside:
        aside.write_bytes(_samples_csv(rows, times))
    write_json(folder / "latency.json", result)
    return result


def summary(row: Latency, rounds: list[list[int]]) -> Latency:
    """Fill in a row from its samples, nanoseconds per round. Percentiles are samples that occurred."""
    samples = np.concatenate([np.asarray(r, dtype=np.float64) for r in rounds]) / 1e6
    percentiles = {
        f"p{q}_ms": float(np.percentile(samples, q, method="higher")) if len(samples) >= needed else None
        for q, needed in SAMPLES_NEEDED.items()
    }
    medians = [float(np.median(r)) / 1e6 for r in rounds]
    spread = (max(medians) - min(medians)) / float(np.median(medians))
    measured = {
        "status": "measured",
        "samples": len(samples),
        "mean_ms": float(samples.mean()),
        **percentiles,
        "images_per_second": 1000 / float(samples.mean()),
        "round_medians_ms": medians,
        "spread": spread,
        "noisy": spread > NOISY_SPREAD,
    }
    return row.model_copy(update=measured)


def _row(path: Path, precision: str, runtime: str, threads: int | None) -> Latency:
    return Latency(file=str(path), precision=precision, runtime=runtime, threads=threads, status="waiting")


def _take_turns(candidates: list[_Candidate], options: BenchmarkOptions) -> list[list[list[int]]]:
    """Nanoseconds `[candidate][round][sample]`. Only one session is alive at a time: idle threads spin."""
    times: list[list[list[int]]] = [[] for _ in candidates]
    least = math.ceil(options.min_samples / options.rounds)
    seconds = options.min_seconds / options.rounds
    with tqdm(total=options.rounds * len(candidates), desc="benchmark", unit="turn", disable=None) as bar:
        for _ in range(options.rounds):
            for candidate, kept in zip(candidates, times, strict=True):
                with candidate.start() as infer:
                    _timed(infer, options.warmup_seconds, 1)
                    kept.append(_timed(infer, seconds, least))
                bar.update()
    return times


def _timed(infer: Infer, seconds: float, least: int) -> list[int]:
    """Call `infer` for at least `seconds` and `least` times; nanoseconds of each call."""
    samples: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(samples) < least or time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        infer()
        samples.append(time.perf_counter_ns() - start)
    return samples


def _image(shape: list[Any]) -> np.ndarray:
    """One image of noise, uint8 `[1, H, W, C]`; its content does not change the work."""
    return np.random.default_rng(0).integers(0, 256, (1, *shape[1:]), dtype=np.uint8)


@contextmanager
def _onnx_session(path: Path, threads: int) -> Iterator[Infer]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"image": _image(session.get_inputs()[0].shape)}
    yield lambda: session.run(["logits"], feed)


def _why_not(record: dict[str, Any], path: Path) -> str | None:
    """Why an engine is not measured, or None: it was opened and ran once."""
    if record["status"] != "built":
        return f"not measured: {record['reason']}"
    reason = measurable()
    if reason:
        return reason
    try:
        with _engine_session(path, record) as infer:
            infer()
    except ImportError as error:
        return f"not measured: {error.name} is missing; `.venv/bin/pip install -c constraints.txt polygraphy`"
    except Exception as error:  # the runtimes have no exception type in common, e.g. for another GPU's engine
        return f"not measured: {record['library']} could not run the engine on this GPU ({error})"
    return None


@contextmanager
def _engine_session(path: Path, record: dict[str, Any]) -> Iterator[Infer]:
    """An engine under Polygraphy, with its copies to and from the GPU, as a caller with an image would see.

    Raises:
        ImportError: Polygraphy, or the library that built the engine, is missing.
    """
    # Read by Polygraphy once, when it is imported; all engines of a run come from one library.
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if record["library"] == "tensorrt_rtx" else "0"
    polygraphy = importlib.import_module("polygraphy.backend.trt")
    importlib.import_module(record["library"])
    feed = {"image": _image(record["inputs"][0]["shape"])}
    with polygraphy.TrtRunner(polygraphy.EngineFromBytes(path.read_bytes())) as runner:
        yield lambda: runner.infer(feed, check_inputs=False)


def _samples_csv(rows: list[Latency], times: list[list[list[int]]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SAMPLE_COLUMNS)
    for row, rounds in zip(rows, times, strict=True):
        for number, samples in enumerate(rounds):
            key = (row.file, row.precision, "" if row.threads is None else row.threads, number)
            writer.writerows((*key, nanoseconds) for nanoseconds in samples)
    return gzip.compress(text.getvalue().encode(), mtime=0)
