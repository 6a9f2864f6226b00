"""The record of a benchmark: a row per file, runtime, number of threads and batch size."""

from typing import Literal

from pydantic import Field

from rsd.run.records.base import Part, Record
from rsd.run.records.device import DeviceRecord


class Latency(Part):
    """One row: a file, on one runtime, with one number of threads and one batch size. `_ms` are per call."""

    file: str
    precision: str
    runtime: str
    """`onnxruntime`, `pytorch`, `pytorch compiled`; `tensorrt` or `tensorrt_rtx`, with the copies to the GPU and back,
    and these with ` compute only`, without them."""
    threads: int | None
    """CPU threads within an operator; None for an engine."""
    scenario: str
    """`single stream`: one image after another; `offline`: batch after batch."""
    batch: int = Field(ge=1)
    status: str
    """`measured`, or why not; then all figures are None."""
    file_bytes: int | None = None
    samples: int | None = None
    mean_ms: float | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    """A percentile with too few samples is None."""
    images_per_second: float | None = None
    cpu_ms: float | None = None
    """CPU time of all threads per call; far from threads x mean where something else ran."""
    round_medians_ms: list[float] | None = None
    spread: float | None = None
    """(largest - smallest) / median of the rounds' medians."""
    noisy: bool | None = None
    """The spread is above 0.1: something else ran, or the clock changed; measure again."""
    warmup_calls: int | None = None
    settled: bool | None = None
    """False where the warm-up of a round gave up before two of its windows agreed."""
    cold_start_ms: list[float] | None = None
    """Session and first inference, each in a fresh process."""
    peak_memory_bytes: int | None = None
    """Of that process as a whole, at the first inference."""
    runtime_memory_bytes: int | None = None
    """Of that process before the file was opened."""


class Conditions(Part):
    """What may change between two measurements on one device; None is not known."""

    affinity: list[int] | None = None
    """CPU cores that the process may use."""
    clock_mhz: list[int] | None = None
    """Of each of these cores."""
    governor: list[str] | None = None
    load: float | None = None
    """Mean length of the run queue over a minute."""


class Timing(Part):
    """How long each row was timed, over all rounds."""

    warmup_seconds: float | None = None
    min_seconds: float
    min_samples: int
    rounds: int
    cold_starts: int | None = None
    offline_batches: list[int] = Field([])
    runtimes: list[str] = Field([])
    """Of the ONNX files."""
    baseline: bool = False
    """Whether PyTorch took turns with the files."""


class LatencyRecord(Record):
    """`benchmark/latency.json`: what was measured, on which device, under which conditions."""

    device: DeviceRecord
    conditions: dict[Literal["before", "after"], Conditions]
    options: Timing
    rows: list[Latency]

    location = "benchmark/latency.json"
