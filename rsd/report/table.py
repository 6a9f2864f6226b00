"""The short table at the end of `make repro`; `rsd table` prints it.

Standard library only: it is printed after every run, also after one that had nothing to do.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError
from rsd.machine.fingerprint import short_name

ENGINES = {"tensorrt_rtx": "TensorRT for RTX", "tensorrt": "TensorRT"}
ENGINES |= {f"{library} compute only": f"{name}, without copies" for library, name in ENGINES.items()}
RUNTIMES = {"onnxruntime": "ONNX Runtime", **ENGINES, "pytorch": "PyTorch", "pytorch compiled": "PyTorch compiled"}
PRECISIONS = ["fp32", "fp16", "int8"]


def summary(out: Path) -> str:
    """The models, the exported files and the path of the report, as plain text, from the records in `out`.

    A record that is not there is named in words. Raises UserError if nothing was evaluated yet.
    """
    models = _read(out / "evaluate" / "models.json")
    if not models:
        raise UserError(f"{out}/ holds no evaluated models yet: run `make repro` first.")
    page = out / "report.html"
    report = f"report  {page}" if page.is_file() else "report  not written yet"
    return "\n\n".join([_models(models), _files(out), report])


def method_name(method: str) -> str:
    """A method as the field spells it: `rsd` is RSD, `scratch` stays a word."""
    if method in ("teacher", "scratch"):
        return method
    return {"fitnet": "FitNet"}.get(method, method.upper())


def size(count: float) -> str:
    """Bytes as people read them; decimal units, as disks and download sizes are stated."""
    if count < 1e3:
        return f"{count:.0f} B"
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def runs_on(runtime: str, threads: object) -> str:
    """What a file runs on, in words: "ONNX Runtime, 1 thread"; engines have no thread count."""
    name = RUNTIMES.get(runtime, runtime)
    if not isinstance(threads, int | float) or math.isnan(threads):
        return name
    return f"{name}, {int(threads)} thread{'' if int(threads) == 1 else 's'}"


def short_runs_on(runtime: str, threads: object) -> str:
    """`runs_on` where room is short and ONNX Runtime goes without saying."""
    return runs_on(runtime, threads).removeprefix("ONNX Runtime, ")


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:#.3g}".rstrip(".") + " ms"


def _models(models: list[dict[str, Any]]) -> str:
    rows = [["model", "parameters", "test top-1", ""]]
    by_method: dict[str, list[dict[str, Any]]] = {}
    for model in models:
        by_method.setdefault(model["method"], []).append(model)
    first = [name for name in ("teacher", "scratch") if name in by_method]
    for method in [*first, *(name for name in by_method if name not in first)]:
        seeds = by_method[method]
        top1 = [model["top1"] for model in seeds]
        spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
        note = "" if method == "teacher" else f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        gain = _gain(by_method, method)
        rows.append(
            [
                method if method == "teacher" else f"{method_name(method)} student",
                f"{seeds[0]['parameters']:,}",
                f"{statistics.fmean(top1):.2f} %{spread}",
                note + (f", {gain:+.2f} points over scratch" if gain is not None else ""),
            ]
        )
    return _aligned(rows, right={1})


def _gain(by_method: dict[str, list[dict[str, Any]]], method: str) -> float | None:
    """Mean top-1 gain over the scratch twins of the same seeds, in points."""
    twins = {model["seed"]: model["top1"] for model in by_method.get("scratch", [])}
    pairs = [model["top1"] - twins[model["seed"]] for model in by_method[method] if model["seed"] in twins]
    return statistics.fmean(pairs) if pairs and method not in ("teacher", "scratch") else None


def _files(out: Path) -> str:
    latency = _read(out / "benchmark" / "latency.json") or {}
    timed = [row for row in latency.get("rows", []) if row.get("batch", 1) == 1]
    rows = [["file", "size", "agrees with PyTorch", "runs on", "p50", "p99"]]
    chosen = (_read(out / "params" / "run.json") or {}).get("precisions")
    for path in _records(out / "convert", "convert.json", chosen):
        record = _read(path)
        name = f"{record.get('student', 'student')} {record['precision']}.onnx"
        agreement = (record.get("parity") or {}).get("top1_agreement")
        verdict = "not recorded" if agreement is None else f"{100 * agreement:.2f} %"
        here = [
            row for row in timed if row.get("precision") == record["precision"] and row.get("runtime") == "onnxruntime"
        ]
        rows += _timed_rows(name, record.get("bytes"), verdict, here)
    for path in _records(out / "engines", "engine.json", chosen):
        record = _read(path)
        precision = record.get("precision") or path.parent.name
        name = f"{precision} engine"
        if record.get("status") != "built":
            rows.append([name, "-", "-", f"skipped: {record.get('reason') or 'no reason recorded'}", "", ""])
            continue
        here = [row for row in timed if row.get("precision") == precision and row.get("runtime") in ENGINES]
        library = record.get("library", "TensorRT")
        rows += _timed_rows(name, record.get("bytes"), "-", here or [{"runtime": library, "status": "not timed"}])
    if len(rows) == 1:
        return "files   none exported yet"
    if baseline := [row for row in timed if str(row.get("runtime")).startswith("pytorch")]:
        rows += _timed_rows("(not exported)", None, "-", baseline)
    device = latency.get("device")
    return _aligned(rows, right={1}) + (f"\n(batch 1, on {short_name(device)})" if device else "")


def _timed_rows(name: str, count: int | None, agreement: str, timed: list[dict[str, Any]]) -> list[list[str]]:
    """A line per way the file was run; the file's own facts stand on the first line only."""
    rows: list[list[str]] = []
    for row in timed or [{"status": "not timed"}]:
        status = row.get("status", "measured")
        if status == "measured":
            p50 = milliseconds(row.get("p50_ms"))
            p99 = "too few samples" if row.get("p99_ms") is None else milliseconds(row["p99_ms"])
            p99 += " (noisy)" if row.get("noisy") else ""
        else:
            p50, p99 = status, ""
        facts = ["", "", ""] if rows else [name, "-" if count is None else size(count), agreement]
        rows.append([*facts, runs_on(row.get("runtime", "-"), row.get("threads")), p50, p99])
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


def _records(folder: Path, name: str, chosen: list[str] | None) -> list[Path]:
    """The records below `folder` of the chosen precisions, the widest first: fp32, fp16, int8."""

    def rank(path: Path) -> tuple[int, str]:
        precision = path.parent.name
        return (PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS), precision)

    found = (path for path in folder.glob(f"*/{name}") if chosen is None or path.parent.name in chosen)
    return sorted(found, key=rank)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
