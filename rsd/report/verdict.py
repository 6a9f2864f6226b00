"""A run in one sentence and five numbers: the top of the report."""

from dataclasses import dataclass

from rsd.machine.words import counted
from rsd.report.interval import Interval, no_interval
from rsd.report.records import Records
from rsd.report.table import method_name, milliseconds, runs_on, size, twin

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Fact:
    """One number of the verdict and what it means; `state` is good, none (not known) or empty."""

    label: str
    value: str
    note: str
    state: str = ""


def headline(records: Records) -> str:
    """What the run showed, no more than its seeds allow."""
    shipped = records.shipped
    if shipped is None:
        return "No student was exported in this run."
    gain = records.gain(shipped.method)
    data = records.data
    start = f"With {counted(data.labelled, 'label')} the" if data and data.labelled is not None else "The"
    sentence = f"{start} shipped student reaches {percent(shipped.top1, 1)} on the test split"
    if gain is None:
        return f"{sentence}."
    if gain.low is None or gain.high is None:
        return f"{sentence}, {points(gain.mean, 1)} against its plainly trained twin: {no_interval(gain.seeds)}."
    if gain.low > 0:
        bounds = f"95 % interval {signed(gain.low, 1)} to {signed(gain.high, 1)}"
        method = method_name(shipped.method)
        return f"{sentence}. Its method, {method}, is {gain.mean:.1f} points ahead of plain training ({bounds})."
    if gain.high < 0:
        return f"{sentence}; its method is {-gain.mean:.1f} points behind plain training."
    return f"{sentence}; whether its method beats plain training, {gain.seeds} seeds cannot tell."


def facts(records: Records) -> list[Fact]:
    """Accuracy, gain, size, tail latency and gates, each present even if only to say why it is unknown."""
    return [_accuracy(records), _gain(records), _size(records), _latency(records), _gates(records)]


def gain_words(gain: Interval) -> str:
    if gain.low is None or gain.high is None:
        return no_interval(gain.seeds)
    return f"95 % interval {signed(gain.low, 2)} to {signed(gain.high, 2)}, {gain.seeds} paired seeds"


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}\N{NO-BREAK SPACE}%"


def points(value: float, digits: int = 2) -> str:
    return f"{signed(value, digits)}\N{NO-BREAK SPACE}points"


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)


def _accuracy(records: Records) -> Fact:
    shipped = records.shipped
    if shipped is None:
        return Fact("Test top-1", "unknown", "no student was exported", "none")
    beside = "".join(f"; the teacher {percent(model.top1)}" for model in records.evaluation.by_method("teacher"))
    return Fact("Test top-1", percent(shipped.top1), f"{shipped.model}, {shipped.images:,} images{beside}")


def _gain(records: Records) -> Fact:
    label, shipped = f"Gain over {twin(records.students.values())}", records.shipped
    if shipped is None:
        return Fact(label, "unknown", "no student was exported", "none")
    if shipped.method == "scratch":
        return Fact(label, "none", "the shipped student is the plainly trained one", "none")
    gain = records.gain(shipped.method)
    if gain is None:
        return Fact(label, "unknown", "no scratch twin of the same seed in this run", "none")
    return Fact(label, points(gain.mean), gain_words(gain))


def _size(records: Records) -> Fact:
    sizes = [f"{record.precision} {size(record.main.bytes)}" for record in records.exports]
    if not sizes:
        return Fact("Size", "unknown", "no file was exported", "none")
    precision, value = sizes[0].split(" ", 1)
    weights = [f"{records.shipped.parameters:,} parameters"] if records.shipped else []
    return Fact("Size", value, "; ".join([f"as {precision}", *sizes[1:], *weights]))


def _latency(records: Records) -> Fact:
    # Of what is shipped, one image after another: PyTorch's rows are there to compare with.
    single = [row for row in records.latency if row.batch == 1 and "pytorch" not in row.runtime]
    measured = [row for row in single if row.status == "measured"]
    tails = [(row.p99_ms, row) for row in measured if row.p99_ms is not None]
    if not tails:
        why = "too few samples for a tail" if measured else "no file was timed on this machine"
        return Fact("p99 latency", "not measured", why, "none")
    p99, best = min(tails, key=lambda tail: tail[0])
    noise = "; the machine was noisy" if best.noisy else ""
    where = runs_on(best.runtime, best.threads)
    return Fact("p99 latency", milliseconds(p99), f"{best.precision}, {where}, batch 1{noise}")


def _gates(records: Records) -> Fact:
    judged = [record.precision for record in records.exports]  # a gate that is missed stops the pipeline
    if not judged:
        return Fact("Parity gates", "none run", "no exported file was compared with PyTorch", "none")
    note = f"{', '.join(judged)}: same answers as PyTorch, within tolerance"
    return Fact("Parity gates", f"{len(judged)} of {len(records.choice.precisions)} passed", note, "good")
