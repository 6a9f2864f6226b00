"""A latency record as Markdown and as a plot; `rsd latency`."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsd.machine.faults import read_checked
from rsd.machine.files import written_aside
from rsd.machine.fingerprint import INT8_FLAGS
from rsd.measure.budget.records import read_device
from rsd.measure.latency import NOISY_SPREAD, SAMPLES_NEEDED
from rsd.report.charts.speed import latencies
from rsd.report.charts.style import save_svg
from rsd.report.table import milliseconds, runs_on, size
from rsd.run.records import Conditions, Latency, LatencyRecord
from rsd.run.records.device import CPU

COLUMNS = (
    *("runs on", "batch", "p50", "p90", "p99", "mean", "CPU time", "images/s", "samples"),
    *("cold start", "peak memory", "size"),
)


def markdown(record: LatencyRecord) -> str:
    """The record as a table, with what it takes to judge it below."""
    head = ["file", *COLUMNS]
    lines = [head, ["---"] * len(head), *[[f"{row.file} {row.precision}", *cells(row)] for row in record.rows]]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([table, *[f"- {line}" for line in notes(record)]]) + "\n"


def notes(record: LatencyRecord) -> list[str]:
    """How it was measured and whether the machine was quiet, in sentences."""
    options, unknown = record.options, Conditions()
    before, after = record.conditions.get("before", unknown), record.conditions.get("after", unknown)
    sentences = [
        f"On {record.device.short_name}; times are per call, all samples kept, none removed. Each row ran for at "
        f"least {options.min_seconds:g} s and {options.min_samples} calls (above batch 1: "
        f"{min(options.min_samples, SAMPLES_NEEDED[90])}) in {options.rounds} interleaved rounds, each after a "
        "warm-up until two windows agreed within 5 %. A p90 needs 64 samples, a p99 662.",
        f"Cores {_list(before.affinity)}; clock {_list(before.clock_mhz)} MHz before and "
        f"{_list(after.clock_mhz)} after; governor {_list(before.governor)}; load "
        f"{_load(before)} before and {_load(after)} after.",
    ]
    measured = [row for row in record.rows if row.status == "measured"]
    if noisy := [row for row in measured if row.noisy]:
        worst = max(noisy, key=lambda row: row.spread or 0.0)
        sentences.append(
            f"The machine was noisy: the medians of the rounds differ by more than {NOISY_SPREAD:.0%} in {len(noisy)} "
            f"of {len(measured)} rows, by {worst.spread:.0%} at worst ({worst.file}). Measure again on a quiet one."
        )
    if unsettled := [row for row in measured if row.settled is False]:
        sentences.append(f"The warm-up never settled in {len(unsettled)} of {len(measured)} rows.")
    if any(row.precision == "int8" for row in measured):
        sentences.append(f"This CPU {_int8_products(record.device.cpu)}.")
    return sentences


def _int8_products(cpu: CPU) -> str:
    """What the CPU's instructions mean for int8, as the end of a sentence."""
    if instructions := sorted(INT8_FLAGS.intersection(cpu.flags)):
        return f"has int8 dot products ({', '.join(instructions)})"
    if not cpu.flags:
        return "does not tell its instructions, so whether it has int8 dot products is not known"
    if cpu.architecture in ("x86_64", "AMD64"):
        return "has no int8 dot product: int8 gains less, and its sums can overflow (`export.int8.reduce_range`)"
    return "has no int8 dot product, so int8 gains less"


def cells(row: Latency) -> list[str]:
    """A row under `COLUMNS`; what was not measured says why in the place of its p50."""
    first = [runs_on(row.runtime, row.threads), str(row.batch)]
    if row.status != "measured":
        return [*first, row.status, *["-"] * (len(COLUMNS) - 3)]
    tails = []
    for name, needed in SAMPLES_NEEDED.items():
        value = getattr(row, f"p{name}_ms")
        few = f"too few samples ({row.samples} of {needed})"
        tails.append(few if value is None else milliseconds(value))
    tails[-1] += " (noisy)" if row.noisy else ""
    cold = statistics.median(row.cold_start_ms) if row.cold_start_ms else None
    return [
        *first,
        *tails,
        milliseconds(row.mean_ms),
        milliseconds(row.cpu_ms),
        f"{row.images_per_second:,.0f}",
        f"{row.samples:,}",
        milliseconds(cold),
        *("-" if count is None else size(count) for count in (row.peak_memory_bytes, row.file_bytes)),
    ]


def _list(values: Sequence[Any] | None) -> str:
    if not values:
        return "unknown"
    unique = list(dict.fromkeys(map(str, values)))
    return ", ".join(unique)


def _load(state: Conditions) -> str:
    return "unknown" if state.load is None else str(state.load)


def read(path: Path) -> LatencyRecord:
    """What the stage `benchmark` or a kit's run.py wrote; UserError for anything else."""
    # A kit's is a record with its candidates and samples.
    if path.is_file() and b'"candidates"' in path.read_bytes():
        return read_device(path)
    return read_checked(path, LatencyRecord, what="a latency record", then="name a latency.json")


def write(record: LatencyRecord, folder: Path) -> str:
    """Write `latency.md` and `latency.svg` into `folder`; the Markdown."""
    text = markdown(record)
    with written_aside(folder / "latency.md") as aside:
        aside.write_text(text)
    save_svg(latencies(record), folder / "latency.svg")
    return text
