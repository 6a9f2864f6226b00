"""The latency record: ONNX files, engines and PyTorch itself, timed in turns on this machine.

How it is measured is in `rsd.measure.latency`. Nothing else should run beside a benchmark.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field
from tqdm import tqdm

from rsd.export import runtimes
from rsd.export.engine import read_sidecar
from rsd.export.runtimes import readers
from rsd.export.runtimes._tensorrt import NO_DEVICE
from rsd.machine.cuda import NoDriverError
from rsd.machine.errors import UserError, first_line
from rsd.machine.files import written_aside
from rsd.machine.fingerprint import cores
from rsd.machine.options import OneOf, Options
from rsd.measure.latency import (
    Candidate,
    Infer,
    Plan,
    conditions,
    fresh,
    image,
    measured,
    onnx_candidate,
    take_turns,
    untimed,
)
from rsd.run.names import ENGINE, SAMPLES
from rsd.run.records import DeviceRecord, EngineRecord, Latency, LatencyRecord

SAMPLE_COLUMNS = ("file", "runtime", "precision", "threads", "batch", "round", "nanoseconds")


class BenchmarkOptions(Options):
    """How long each model is timed; seconds and samples are per row of the result, over all rounds."""

    warmup_seconds: float = Field(default=0.1, ge=0)
    """A window of the warm-up before each round, which ends when two successive windows agree within 5 %."""
    min_seconds: float = Field(default=5.0, ge=0)
    min_samples: int = Field(default=662, ge=1, le=1_000_000)
    """662 is the least that a 99th percentile can be read from; rows above batch 1 take at most 64."""
    rounds: int = Field(default=5, ge=1, le=1000)
    offline_batches: list[Annotated[int, Field(ge=2, le=65_536)]] = Field(default=[8, 32])
    """Batch sizes of the rows that state throughput, with all cores; an engine's are clipped to its profile."""
    cold_starts: int = Field(default=3, ge=0, le=1000)
    """Fresh processes per file and number of threads."""
    runtimes: list[Annotated[str, OneOf(readers)]] = Field(default=["onnxruntime", "openvino"], min_length=1)
    """Of the ONNX files."""
    baseline: bool = True
    """PyTorch, eager and compiled, as rows of the same run."""

    def plan(self) -> Plan:
        return Plan(**self.model_dump(exclude={"offline_batches", "runtimes", "baseline"}))


def benchmark(
    onnx: Mapping[str, Mapping[str, Path]],
    engines: Mapping[str, Path],
    options: BenchmarkOptions,
    *,
    device: DeviceRecord,
    folder: Path,
    others: Sequence[Candidate | Latency] = (),
    made_from: Mapping[str, str] | None = None,
) -> LatencyRecord:
    """Time ONNX files on the CPU, with one thread and with all cores, and engines on the GPU if there is one.

    An engine's single stream is at the smallest batch of its profile, which the row states.

    Args:
        onnx: precision -> runtime -> its file, with one uint8 input `[N, H, W, C]`; `tensorrt` is what engines were
            built from.
        engines: precision -> folder with `engine.json` and, unless it says skipped, `model.engine`.
        device: this machine.
        folder: gets the record, `latency.json`, and all raw samples, `samples.csv.gz`.
        others: what else takes turns with them (`rsd.measure.baseline`), or rows that say why it does not.
        made_from: SHA-256 of the files, by their paths below the run's folder.
    """
    before = conditions()
    candidates: list[Candidate] = []
    missing: list[Latency] = [one for one in others if isinstance(one, Latency)]
    for name in options.runtimes:
        for precision, files in onnx.items():
            path = files.get(name, files[runtimes.MAIN])
            plain = onnx_candidate(path, precision=precision, threads=1, runtime=name)
            none = None if name in files else f"no {precision} file is shipped for it"
            if reason := runtimes.get(name).missing() or none or _fault(plain):
                missing.append(Latency(**plain.row, status=f"not measured: {reason}"))
                continue
            for threads in sorted({1, cores()}):
                single = onnx_candidate(path, precision=precision, threads=threads, runtime=name)
                cold = fresh(path, threads, options.cold_starts, runtime=name)
                candidates.append(Candidate({**single.row, **cold}, single.start))
            candidates += [
                onnx_candidate(path, precision=precision, threads=cores(), batch=batch, runtime=name)
                for batch in options.offline_batches
            ]
    for precision, engine_folder in engines.items():
        engine = read_sidecar(engine_folder)
        least, most = engine.batches
        file, source = str(engine_folder / ENGINE), onnx.get(precision, {}).get(runtimes.BUILDER)
        if reason := _why_not(engine, engine_folder, source):
            missing.append(Latency(**untimed(file, precision, engine.library, None, least), status=reason))
            continue
        for batch in sorted({least, *(min(max(batch, least), most) for batch in options.offline_batches)}):
            for way in runtimes.get(engine.library).titles:
                start = partial(_engine_session, engine.library, engine_folder, source, batch=batch, way=way)
                runtime = f"{engine.library} {way}".strip()
                candidates.append(Candidate(untimed(file, precision, runtime, None, batch, engine.bytes), start))
    candidates += [one for one in others if isinstance(one, Candidate)]

    with tqdm(total=options.rounds * len(candidates), desc="benchmark", unit="turn", disable=None) as bar:
        turns = take_turns(candidates, options.plan(), progress=lambda _: bar.update())
    rows = [Latency(**measured(c.row, t)) for c, t in zip(candidates, turns, strict=True)]
    result = LatencyRecord(
        device=device,
        conditions={"before": before, "after": conditions()},
        options=options.model_dump(),
        rows=[*rows, *missing],
        made_from=dict(made_from or {}),
    )
    with written_aside(folder / SAMPLES) as aside:
        aside.write_bytes(_samples_csv(rows, [[turn.nanoseconds for turn in one] for one in turns]))
    result.write(folder)
    return result


def _fault(candidate: Candidate) -> str | None:
    """Open the file and run it once; why that fails, or None."""
    try:
        with candidate.start() as infer:
            infer()
    except Exception as error:  # runtimes' exceptions have no type in common
        return first_line(error)[:300]
    return None


def _why_not(engine: EngineRecord, folder: Path, onnx: Path | None) -> str | None:
    """Open the engine and run it once; why it is not measured, or None."""
    if engine.status != "built":
        return f"not measured: {engine.reason}"
    try:
        with _engine_session(engine.library, folder, onnx, batch=engine.batches[0]) as infer:
            infer()
    except NoDriverError:
        return NO_DEVICE
    except UserError as error:
        return f"not measured: {error}"
    return None


@contextmanager
def _engine_session(library: str, folder: Path, onnx: Path | None, *, batch: int, way: str = "") -> Iterator[Infer]:
    """A batch through an engine, in one of its runtime's ways."""
    with runtimes.get(library).open(folder, onnx=onnx) as opened:
        yield opened.call(image((1, *opened.shape), batch), way)


def _samples_csv(rows: Sequence[Latency], times: Sequence[Sequence[Sequence[int]]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SAMPLE_COLUMNS)
    for row, rounds in zip(rows, times, strict=True):
        threads = "" if row.threads is None else row.threads
        for number, samples in enumerate(rounds):
            key = (row.file, row.runtime, row.precision, threads, row.batch, number)
            writer.writerows((*key, nanoseconds) for nanoseconds in samples)
    return gzip.compress(text.getvalue().encode(), mtime=0)
