"""Which students fit a latency budget, in words: what `rsd budget show` prints."""

from collections.abc import Sequence

from rsd.measure.budget.choose import BudgetRow, best, pareto
from rsd.report.table import milliseconds, short_runs_on, size

COLUMNS = ("device", "student", "parameters", "precision", "threads", "p50", "p99", "file", "test top-1", "front")


def table(rows: Sequence[BudgetRow]) -> str:
    """Markdown; every row with its device."""
    front = set(map(id, pareto(rows)))
    lines = [COLUMNS, ["---"] * len(COLUMNS), *[[*_cells(row), "yes" if id(row) in front else ""] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(rows: Sequence[BudgetRow], p99_ms: float) -> str:
    """Which rows do not fit and why, then the best student of each device."""
    misfits = [row for row in rows if not row.fits(p99_ms)]
    lines = [f"{len(misfits)} of {len(rows)} do not fit a p99 of {p99_ms:g} ms at batch 1:"]
    lines += [f"  {row.name} {row.precision} on {row.device}: {_p99(row)}" for row in misfits]
    for device, row in best(rows, p99_ms).items():
        if row is None:
            lines.append(f"\n{device}: no student that was trained here fits; train one of those above (README)")
        else:
            lines.append(
                f"\n{device}: the best is {row.name} {row.precision} ({row.student}), {row.top1:.2f} % "
                f"at p99 {milliseconds(row.p99_ms)}, {short_runs_on(row.latency.runtime, row.latency.threads)}"
            )
    return "\n".join(lines)


def _cells(row: BudgetRow) -> list[str]:
    latency = row.latency
    return [
        row.device,
        row.name,
        "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
        row.precision,
        str(latency.threads),
        milliseconds(latency.p50_ms),
        _p99(row),
        "-" if latency.file_bytes is None else size(latency.file_bytes),
        "not trained" if row.top1 is None else f"{row.top1:.2f} % ({row.student})",
    ]


def _p99(row: BudgetRow) -> str:
    latency = row.latency
    if row.p99_ms is not None:
        text = milliseconds(row.p99_ms)
    elif latency.samples is None:
        text = latency.status
    else:
        text = f"too few samples ({latency.samples} of 662)"
    return text + (" (noisy)" if latency.noisy else "")
