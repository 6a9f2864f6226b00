"""Latencies of devices and accuracies of students: which students are worth shipping."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsd.export.runtimes import readers
from rsd.measure.budget.records import TrainedStudent, read_device, read_trained, shipped_student
from rsd.run.paths import Run
from rsd.run.records import Latency
from rsd.run.snapshot import snapshot


@dataclass(frozen=True)
class BudgetRow:
    """A student in one precision on one device, with the number of threads that gives it the smallest p99."""

    device: str
    name: str
    parameters: int | None
    precision: str
    latency: Latency
    top1: float | None
    """Per cent on the test split; None: not trained here, or not exported in this precision."""
    student: str | None
    """Method and seed of the trained one."""

    @property
    def p99_ms(self) -> float | None:
        return self.latency.p99_ms

    def fits(self, p99_ms: float) -> bool:
        """Whether its p99 fits; a row with too few samples for a p99 does not."""
        return self.p99_ms is not None and self.p99_ms <= p99_ms


def rows(budget: Path, run: Run) -> list[BudgetRow]:
    """Every student on every known device.

    Args:
        budget: the folder with `devices/*.json` and `trained.json`; either may be missing.
        run: the last run, for its shipped student and the latencies of this machine; stale records are left out.

    Raises:
        UserError: a file in `budget` contradicts itself.
    """
    known_run = snapshot(run) if run.section_file("run").is_file() else None
    here = shipped_student(known_run) if known_run else None
    noted = [one for one in read_trained(budget / "trained.json") if here is None or one.data == here.data]
    trained = [one for one in noted if here is None or not one.same(here)] + ([here] if here else [])
    results = []
    for path in sorted((budget / "devices").glob("*.json")):
        record = read_device(path)
        device = record.device.full_name
        for candidate in record.candidates:
            match = next((one for one in trained if one.same(candidate)), None)
            for precision, file in candidate.files.items():
                latencies = [row for row in record.rows if (row.file, row.precision) == (file.path, precision)]
                if latencies:
                    results.append(_row(device, candidate.name, candidate.parameters, precision, latencies, match))
    if here and known_run and (measured := known_run.latency):
        device, onnx_rows = measured.device.full_name, [row for row in measured.rows if row.runtime in readers()]
        for precision in here.top1:
            latencies = [row for row in onnx_rows if (row.precision, row.batch) == (precision, 1)]
            if latencies and not any(
                (r.device, r.precision, r.student) == (device, precision, here.student) for r in results
            ):
                results.append(_row(device, here.model, here.parameters, precision, latencies, here))
    return results


def pareto(rows: Iterable[BudgetRow]) -> list[BudgetRow]:
    """The trained rows that no other on the same device beats in accuracy and p99; the fastest first."""
    known = [row for row in rows if row.top1 is not None and row.p99_ms is not None]
    return sorted(
        (row for row in known if not any(_beats(other, row) for other in known if other.device == row.device)),
        key=lambda row: (row.device, row.p99_ms or 0.0),
    )


def best(rows: Iterable[BudgetRow], p99_ms: float) -> dict[str, BudgetRow | None]:
    """For each device the most accurate trained student that fits, the faster of two; None where none does."""
    answer: dict[str, BudgetRow | None] = {}
    for row in rows:
        current = answer.setdefault(row.device, None)
        fits = row.fits(p99_ms) and row.top1 is not None
        if fits and (current is None or _merit(row) > _merit(current)):
            answer[row.device] = row
    return answer


def feasible(rows: Iterable[BudgetRow], p99_ms: float) -> list[BudgetRow]:
    """The rows that fit: trained students by accuracy, then untrained ones by size."""
    fitting = [row for row in rows if row.fits(p99_ms)]
    return sorted(fitting, key=lambda row: (row.device, row.top1 is None, -(row.top1 or 0), -(row.parameters or 0)))


def _merit(row: BudgetRow) -> tuple[float, float]:
    return row.top1 or 0.0, -(row.p99_ms or 0.0)


def _beats(other: BudgetRow, row: BudgetRow) -> bool:
    at_least = _merit(other)[0] >= _merit(row)[0] and _merit(other)[1] >= _merit(row)[1]
    return at_least and _merit(other) != _merit(row)


def _row(
    device: str,
    name: str,
    parameters: int | None,
    precision: str,
    latencies: Sequence[Latency],
    known: TrainedStudent | None,
) -> BudgetRow:
    tailed = [row for row in latencies if row.p99_ms is not None] or [
        row for row in latencies if row.p50_ms is not None
    ]
    fastest = min(tailed, key=lambda row: row.p99_ms or row.p50_ms or 0.0) if tailed else latencies[0]
    top1 = known.top1.get(precision) if known else None
    return BudgetRow(
        device, name, parameters, precision, fastest, top1, known.student if known and top1 is not None else None
    )
