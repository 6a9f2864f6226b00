"""The tables of a comparison, each against its first run, and what speaks against comparing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rsd.report import verdict
from rsd.report.charts.style import method_order
from rsd.report.compare.difference import Difference, difference
from rsd.report.compare.run import ComparedRun
from rsd.report.flat import flat, section_order
from rsd.report.interval import PERCENT, POINTS, Interval, interval, no_interval
from rsd.report.table import method_name, milliseconds, runs_on, short_runs_on, size
from rsd.report.verdict import MINUS, signed
from rsd.run.records import Latency


@dataclass(frozen=True)
class Cell:
    """A value, and in lines below it how it differs from the first run's; `state` is good, bad, changed or empty."""

    text: str
    note: str = ""
    state: str = ""


@dataclass(frozen=True)
class Metric:
    """A column of the table of metrics."""

    key: str
    title: str
    better: int
    """1: more is better; -1: less is; 0: neither."""
    digits: int = 2
    within: tuple[float, float] = PERCENT
    """The values it can have."""


METRICS = (
    Metric("top1", "top-1, %", 1),
    Metric("gain", "gain over scratch", 1, within=POINTS),
    Metric("nll", "NLL", -1, digits=3, within=(0.0, math.inf)),
    Metric("ece", "ECE, %", -1),
    Metric("agreement", "agreement, %", 0),
    Metric("effective_rank", "effective rank", 0, digits=1, within=(0.0, math.inf)),
)


def warnings(runs: Sequence[ComparedRun]) -> list[str]:
    """What a reader must know before the numbers, in sentences."""
    first, sentences = runs[0], []
    if not same_test_data(runs):
        sentences.append(
            "Test data differ or are not recorded: accuracies were measured on other images and cannot be compared."
        )
    if not same_device(runs):
        where = "; ".join(f"{run.name} on {run.device or 'no recorded device'}" for run in runs)
        sentences.append(f"Devices differ, so latencies cannot be compared: {where}.")
    for run in runs:
        sentences += [f"Of {run.name}, {sentence}." for sentence in run.records.left_out]
        rows = [row for row in run.records.latency if row.status == "measured"]
        if noisy := sum(bool(row.noisy) for row in rows):
            sentences.append(f"The machine was noisy while {run.name} was timed: {noisy} of {len(rows)} rows.")
    for run in runs[1:]:
        if run.seeds != first.seeds:
            seeds = [", ".join(map(str, one.seeds)) or "none" for one in (run, first)]
            sentences.append(f"Seeds differ: {run.name} has {seeds[0]}, {first.name} has {seeds[1]}.")
        ours, theirs = first.records.versions, run.records.versions
        changed = [name for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
        if changed:
            pairs = ", ".join(f"{name} {theirs[name] or 'none'} for {ours[name] or 'none'}" for name in changed)
            sentences.append(f"Versions differ: {run.name} has {pairs}.")
        if run.code:
            names = ", ".join(run.code[:5]) + (f" and {len(run.code) - 5} more" if len(run.code) > 5 else "")
            sentences.append(f"Code differs between {first.name} and {run.name}: {names}.")
    return sentences


def same_test_data(runs: Sequence[ComparedRun]) -> bool:
    return runs[0].test_data is not None and len({run.test_data for run in runs}) == 1


def same_device(runs: Sequence[ComparedRun]) -> bool:
    """Whether all that were timed were timed on one machine."""
    return len({run.device for run in runs if run.device}) < 2


def params(runs: Sequence[ComparedRun]) -> list[tuple[str, list[Cell]]]:
    """The resolved params in which the runs differ, in the order of the work."""
    known = [
        {
            f"{section}.{key}" if key else section: value
            for section in section_order(run.records.params)
            for key, value in flat(run.records.params[section])
        }
        for run in runs
    ]
    rows = []
    for key in dict.fromkeys(key for one in known for key in one):
        values = [one.get(key, "-") for one in known]
        if len(set(values)) > 1:
            rows.append((key, [Cell(value, state="" if value == values[0] else "changed") for value in values]))
    return rows


def glance(runs: Sequence[ComparedRun]) -> list[tuple[ComparedRun, list[Cell]]]:
    """A line per run under the heads shipped, test top-1, gain, size, bundle, p99, parity gates."""
    return [(run, _line(run, runs[0], comparable=same_device([runs[0], run]))) for run in runs]


def _line(run: ComparedRun, first: ComparedRun, *, comparable: bool) -> list[Cell]:
    shipped, base = run.records.shipped, first.records.shipped
    if shipped is None or not run.records.exports:
        return [Cell("none"), *[Cell("-")] * 6]
    precision = run.records.exports[0].precision
    gain = run.records.gain(shipped.method)
    tail, other = fastest(run), fastest(first)
    same = run is first
    beside = "" if same or not base else verdict.points(shipped.top1 - base.top1)
    return [
        Cell(shipped.model),
        Cell(verdict.percent(shipped.top1), beside),
        Cell("-") if gain is None else Cell(verdict.points(gain.mean), _bounds(gain, 2)),
        _bytes(run.bytes_of(precision), None if same else first.bytes_of(precision), precision),
        _bytes(run.bundle_bytes, None if same else first.bundle_bytes),
        _time(
            tail.p99_ms if tail else None,
            other.p99_ms if other and comparable and not same else None,
            f"{tail.precision}, {short_runs_on(tail.runtime, tail.threads)}" if tail else "",
        ),
        Cell(f"{len(run.records.exports)} of {len(run.records.choice.precisions)} passed"),
    ]


def fastest(run: ComparedRun) -> Latency | None:
    """The exported file with the smallest p99 for one image."""
    rows = [row for row in run.records.latency if row.batch == 1 and "pytorch" not in row.runtime]
    return min((row for row in rows if row.p99_ms is not None), key=lambda row: row.p99_ms or 0.0, default=None)


def measured(runs: Sequence[ComparedRun]) -> list[Metric]:
    """Those of `METRICS` that some run has."""
    return [one for one in METRICS if one.key == "gain" or any(one.key in run.records.frame for run in runs)]


def metrics(runs: Sequence[ComparedRun]) -> list[tuple[str, list[tuple[ComparedRun, list[Cell]]]]]:
    """For each method that is not `unchanged` a line per run that has it: seeds, then means of what was `measured`."""
    methods = method_order(model.method for run in runs for model in run.records.models)
    table = []
    for method in [method for method in methods if method not in unchanged(runs)]:
        lines = []
        for run in runs:
            if seeds := len(run.scores(method, "top1")):
                lines.append((run, [Cell(str(seeds)), *(_metric(one, method, run, runs[0]) for one in measured(runs))]))
        table.append((method_name(method), lines))
    return table


def unchanged(runs: Sequence[ComparedRun]) -> list[str]:
    """Methods that every run has, with the same figures seed by seed: nothing that differs reached them."""
    return [
        method
        for method in method_order(runs[0].records.frame["method"])
        if all(
            runs[0].scores(method, metric.key).equals(run.scores(method, metric.key))
            for run in runs[1:]
            for metric in METRICS
        )
    ]


def _metric(metric: Metric, method: str, run: ComparedRun, first: ComparedRun) -> Cell:
    values = run.scores(method, metric.key)
    if values.empty:
        return Cell("-")
    mean = values.mean()
    text = signed(mean, metric.digits) if metric.key == "gain" else f"{mean:.{metric.digits}f}"
    low, high = metric.within
    within = low - high, high - low  # of the differences of two values
    change = None if run is first else difference(first.scores(method, metric.key), values, within=within)
    if change is None:
        return Cell(text, _bounds(interval(values, within=metric.within), metric.digits))
    state = {1: "good", -1: "bad", 0: ""}[change.sign * metric.better]
    return Cell(text, _difference(change, metric.digits), state)


def headline(runs: Sequence[ComparedRun]) -> str:
    """What the comparison shows, no more than seeds and data allow."""
    first, other = runs[0], runs[1]
    if not same_test_data(runs):
        return "These runs were not judged on the same test images: their accuracies cannot be compared."
    if len(runs) > 2:
        return f"{first.name} and {len(runs) - 1} other runs."
    shipped = other.records.shipped
    method = shipped.method if shipped else "scratch"
    change = difference(first.scores(method, "top1"), other.scores(method, "top1"))
    if change is None:
        return f"{other.name} beside {first.name}: they have no {method_name(method)} student in common."
    mean, seeds = change.interval.mean, change.interval.seeds
    how_far = f"{abs(mean):.2f} points {'above' if mean >= 0 else 'below'}"
    student, are, those = ("student", "is", "that") if seeds == 1 else ("students", "are", "those")
    sentence = f"The {method_name(method)} {student} of {other.name} {are} {how_far} {those} of {first.name}"
    if change.sign:
        return f"{sentence}."
    if change.interval.low is None:
        return f"{sentence}: {no_interval(seeds)}."
    better = f"whether {other.name} is more accurate than {first.name}"
    return f"{better[0].upper()}{better[1:]}, {seeds} seeds cannot tell."


def sizes(runs: Sequence[ComparedRun]) -> list[tuple[str, list[Cell]]]:
    """Bytes of every exported file and of the bundle: a line each, a column per run."""
    precisions = dict.fromkeys(one.precision for run in runs for one in run.records.exports)
    lines: list[tuple[str, Callable[[ComparedRun], int | None]]] = [
        (f"{precision}.onnx", lambda run, precision=precision: run.bytes_of(precision))  # type: ignore[misc]
        for precision in precisions
    ]
    lines.append(("bundle", lambda run: run.bundle_bytes))
    return [
        (name, [_bytes(of(run), None if run is runs[0] else of(runs[0])) for run in runs])
        for name, of in lines
        if any(of(run) is not None for run in runs)
    ]


def latencies(runs: Sequence[ComparedRun]) -> list[tuple[str, list[Cell]]]:
    """p50 and p99 for one image of every file and way to run it: a line each, a column per run."""
    rows = [
        {(row.precision, runs_on(row.runtime, row.threads)): row for row in run.records.latency if row.batch == 1}
        for run in runs
    ]
    comparable = [same_device([runs[0], run]) for run in runs]
    table = []
    for key in dict.fromkeys(key for one in rows for key, row in one.items() if row.p50_ms is not None):
        first = rows[0].get(key)
        cells = []
        for i, one in enumerate(rows):
            row = one.get(key)
            if row is None or row.p50_ms is None:
                cells.append(Cell("-", "" if row is None else row.status))
                continue
            text = f"{milliseconds(row.p50_ms)} · {milliseconds(row.p99_ms)}"
            notes = ["noisy"] if row.noisy else []
            if i and comparable[i] and first and first.p50_ms:
                tail = f" · {row.p99_ms / first.p99_ms:.2f}" if row.p99_ms and first.p99_ms else ""
                notes.insert(0, f"{row.p50_ms / first.p50_ms:.2f}{tail} times")
            cells.append(Cell(text, ", ".join(notes)))
        table.append((", ".join(key), cells))
    return table


def commands(runs: Sequence[ComparedRun]) -> list[tuple[ComparedRun, str | None]]:
    """How to have each run again."""
    return [(run, f"git checkout {run.commit} && dvc checkout" if run.commit else None) for run in runs]


def _bytes(count: int | None, before: int | None, note: str = "") -> Cell:
    if count is None:
        return Cell("-")
    change = f"{signed(100 * (count / before - 1), 1)}\N{NO-BREAK SPACE}%" if before else ""
    return Cell(size(count), "\n".join(filter(None, [note, change])))


def _time(value: float | None, before: float | None, note: str) -> Cell:
    if value is None:
        return Cell("not measured")
    ratio = f"{value / before:.2f} times" if before else ""
    return Cell(milliseconds(value), "\n".join(filter(None, [note, ratio])))


def _difference(difference: Difference, digits: int) -> str:
    mean = signed(difference.interval.mean, digits)
    if difference.interval.low is None or difference.interval.high is None:
        return mean
    how = "" if difference.paired else "\nunpaired"
    return f"{mean}\n{signed(difference.interval.low, digits)} to {signed(difference.interval.high, digits)}{how}"


def _bounds(span: Interval, digits: int) -> str:
    if span.low is None or span.high is None:
        return ""
    return f"{span.low:.{digits}f} to {span.high:.{digits}f}".replace("-", MINUS)
