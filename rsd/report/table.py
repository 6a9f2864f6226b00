"""The short table at the end of `make repro`; `rsd table` prints it.

It is printed after every run, also after one that had nothing to do: nothing heavy is imported.
"""

import math
import statistics
from collections.abc import Iterable

from rsd.export import runtimes
from rsd.machine.words import counted
from rsd.report.labels import advantage
from rsd.run.paths import Run
from rsd.run.records import EngineRecord, EvaluationRecord, Latency, StudentRecord
from rsd.run.snapshot import Snapshot, evaluated

BASELINE = {"pytorch": "PyTorch", "pytorch compiled": "PyTorch compiled"}


def summary(run: Run) -> str:
    """The models, the files and the path of the report, as plain text.

    A record that is missing is named in words; one that is stale is left out, with the cause.

    Raises:
        UserError: nothing was evaluated yet.
    """
    known, evaluation = evaluated(run)
    report = f"report  {run.report}" if run.report.is_file() else "report  not written yet"
    report += ", written before; run `dvc repro`" * (run.report.is_file() and bool(known.stale))
    taught = [advantage(known.data, known.teacher)] if known.data and known.teacher else []
    models = "\n".join([_models(evaluation, known.students), *taught])
    return "\n\n".join([models, _files(known), *known.left_out, report])


def method_name(method: str) -> str:
    """A method as the field spells it: `rsd` is RSD, `rsd+kd` RSD + KD, `scratch` stays a word."""
    if method in ("teacher", "scratch"):
        return method
    return " + ".join({"fitnet": "FitNet"}.get(part, part.upper()) for part in method.split("+"))


def twin(students: Iterable[StudentRecord]) -> str:
    """What the twin's training is called: it starts as the distilled students do."""
    return "plain fine-tuning" if start_in_words(students) else "scratch"


def start_in_words(students: Iterable[StudentRecord]) -> str:
    """The weights that every student of a run starts from; empty if they were drawn from the seeds."""
    starts = {str(student.start) for student in students if student.start}
    if not starts:
        return ""
    return f"every student starts from {' or '.join(sorted(starts))}; scratch is fine-tuned plainly"


def size(count: float) -> str:
    """Bytes as people read them; decimal units, as disks and download sizes are stated."""
    if count < 1e3:
        return f"{count:.0f} B"
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def runs_on(runtime: str, threads: object) -> str:
    """What a file runs on, in words: "ONNX Runtime, 1 thread"; engines have no thread count."""
    name = BASELINE.get(runtime) or runtimes.title(runtime)
    if not isinstance(threads, int | float) or math.isnan(threads):
        return name
    return f"{name}, {counted(int(threads), 'thread')}"


def short_runs_on(runtime: str, threads: object) -> str:
    """`runs_on` where room is short and ONNX Runtime goes without saying."""
    return runs_on(runtime, threads).removeprefix("ONNX Runtime, ")


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:#.3g}".rstrip(".") + " ms"


def _models(evaluation: EvaluationRecord, students: list[StudentRecord]) -> str:
    rows = [["model", "parameters", "test top-1", ""]]
    first = [name for name in ("teacher", "scratch") if name in evaluation.methods]
    for method in [*first, *(name for name in evaluation.methods if name not in first)]:
        models = evaluation.by_method(method)
        top1 = [model.top1 for model in models]
        spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
        note = "" if method == "teacher" else counted(len(models), "seed")
        if gains := evaluation.gains(method):
            note += f", {_gain(gains.values(), twin(students))}"
        name = method if method == "teacher" else f"{method_name(method)} student"
        rows.append([name, f"{models[0].parameters:,}", f"{statistics.fmean(top1):.2f} %{spread}", note])
    start = start_in_words(students)
    return _aligned(rows, right={1}) + (f"\n({start})" if start else "")


def _gain(gains: Iterable[float], twin: str) -> str:
    """Points, with their interval where there is one."""
    from rsd.report.interval import POINTS, interval  # here, since SciPy takes as long to import as all else

    mean, low, high, _ = interval(gains, within=POINTS)
    bounds = "" if low is None else f" (95 %: {low:+.2f} to {high:+.2f})"
    return f"{mean:+.2f} points over {twin}{bounds}"


def _files(known: Snapshot) -> str:
    single = [row for row in known.latency.rows if row.batch == 1] if known.latency else []
    rows = [["file", "size", "agrees with PyTorch", "runs on", "p50", "p99"]]
    for file in known.converted:
        for runtime, pair in file.pairs.items():
            here = [row for row in single if row.precision == file.precision and _runtime(row) == runtime]
            if here or runtime == runtimes.MAIN:
                agreement = f"{100 * pair.parity.top1_agreement:.2f} %"
                rows += _timed_rows(f"{file.student} {file.precision}.onnx", pair.bytes, agreement, _fastest(here))
    for engine in known.engines:
        name = f"{engine.precision} engine"
        if engine.status != "built":
            rows.append([name, "-", "-", f"skipped: {engine.reason or 'no reason recorded'}", "", ""])
            continue
        here = [row for row in single if row.precision == engine.precision and _runtime(row) in runtimes.builders()]
        rows += _timed_rows(name, engine.bytes, "-", here, runtime=engine.library)
    if len(rows) == 1:
        return "files   none exported yet"
    note = f"\n({reason})" if (reason := larger_int8(known.engines)) else ""
    if baseline := [row for row in single if row.runtime.startswith("pytorch")]:
        rows += _timed_rows("(not exported)", None, "-", baseline)
    device = known.latency.device.short_name if known.latency else None
    return (
        _aligned(rows, right={1})
        + (f"\n(batch 1, the fastest number of threads, on {device})" if device else "")
        + note
    )


def larger_int8(engines: Iterable[EngineRecord]) -> str | None:
    """Why an int8 engine is larger than the fp32 one; None where it is not."""
    sizes = {engine.precision: engine.bytes for engine in engines if engine.status == "built" and engine.bytes}
    if "int8" not in sizes or sizes["int8"] <= sizes.get("fp32", math.inf):
        return None
    return "an engine also holds compiled kernels; int8 needs more of them, so a small student's int8 engine is larger"


def _runtime(row: Latency) -> str:
    return row.runtime.partition(" ")[0]


def _fastest(rows: list[Latency]) -> list[Latency]:
    """The number of threads that a file is fastest with; the report has the others."""
    measured = [row for row in rows if row.p50_ms is not None]
    return [min(measured, key=lambda row: row.p50_ms or 0)] if measured else rows[:1]


def _timed_rows(
    name: str, count: int | None, agreement: str, latencies: list[Latency], *, runtime: str = "-"
) -> list[list[str]]:
    """A line per way the file was run; the file's own facts stand on the first line only."""
    facts = [name, "-" if count is None else size(count), agreement]
    if not latencies:
        return [[*facts, runs_on(runtime, None), "not timed", ""]]
    rows: list[list[str]] = []
    for row in latencies:
        p50, p99 = row.status, ""
        if row.status == "measured":
            p50 = milliseconds(row.p50_ms)
            p99 = "too few samples" if row.p99_ms is None else milliseconds(row.p99_ms)
            p99 += " (noisy)" if row.noisy else ""
        rows.append([*(["", "", ""] if rows else facts), runs_on(row.runtime, row.threads), p50, p99])
    return rows


def _aligned(rows: list[list[str]], right: set[int]) -> str:
    """Columns padded to their widest cell; the last cell of a line may run over the columns behind it."""
    widths = [
        max(len(row[column]) for row in rows if row is rows[0] or any(row[column + 1 :]))
        for column in range(len(rows[0]))
    ]
    lines = [
        "  ".join(cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
