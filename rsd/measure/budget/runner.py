"""Time a kit's models on this device.

The device's half of a kit: the kit holds a copy of it, named run.py, beside the few modules that it imports, so
that a device and this project cannot measure in different ways. onnxruntime and numpy are all it needs.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypedDict

from rsd.machine.errors import first_line
from rsd.machine.fingerprint import Fingerprint, cores, fingerprint
from rsd.measure.latency import (
    Candidate,
    Conditions,
    Outcome,
    Plan,
    conditions,
    fresh,
    measured,
    onnx_candidate,
    take_turns,
)

FORMAT = 1


class Answer(TypedDict):
    """What a device says of a kit; `rsd.measure.budget.records.KitRecord` reads it."""

    format: int
    candidates: list[object]
    """As in the kit."""
    device: Fingerprint
    conditions: dict[str, Conditions]
    options: dict[str, float]
    rows: list[Outcome]
    samples: list[list[list[int]]]
    """Nanoseconds per measured row, round and call."""


def run_kit(
    folder: Path, plan: Plan, threads: Sequence[int], *, progress: Callable[[str], object] = lambda _: None
) -> Answer:
    """Time a kit's files on this device, for `rsd budget import`; ValueError for a file that is not the packed one."""
    kit = json.loads((folder / "kit.json").read_text())
    waiting: list[Candidate] = []
    candidates: list[Candidate] = []
    failed: list[Outcome] = []
    for one in kit["candidates"]:
        for precision, file in one["files"].items():
            path = folder / file["path"]
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
                raise ValueError(f"expected {file['path']} as it was packed, found another or none; copy the kit again")
            for count in threads:
                waiting.append(onnx_candidate(path, precision=precision, threads=count, file=file["path"]))
    before = conditions()
    for candidate in waiting:
        path = folder / candidate.row["file"]
        progress(f"opening {candidate.row['file']}")
        try:
            facts = fresh(path, candidate.row["threads"] or 1, plan.cold_starts)
            with candidate.start() as infer:
                infer()
        except Exception as error:  # what a runtime raises for a file it cannot read has no type in common
            failed.append({**candidate.row, "status": f"not measured: {first_line(error)[:300]}"})
        else:
            candidates.append(Candidate({**candidate.row, **facts}, candidate.start))
    turns = take_turns(candidates, plan, progress=progress)
    return {
        "format": FORMAT,
        "candidates": kit["candidates"],
        "device": fingerprint(),
        "conditions": {"before": before, "after": conditions()},
        "options": asdict(plan),
        "rows": [*(measured(c.row, t) for c, t in zip(candidates, turns, strict=True)), *failed],
        "samples": [[turn.nanoseconds for turn in one] for one in turns],
    }


def run(folder: Path, out: Path, *, threads: Sequence[int] | None = None, seconds: float | None = None) -> None:
    """Time a kit with progress on the terminal, and write the answer to `out`, whole or not at all.

    Args:
        threads: CPU threads, each a row per file; 1 and all cores if None.
        seconds: least time per row; what the kit says if None.

    Raises:
        ValueError: see `run_kit`.
    """
    plan = Plan(**json.loads((folder / "kit.json").read_text())["options"])
    if seconds is not None:
        plan = replace(plan, min_seconds=seconds)

    def say(line: str) -> None:
        print(f"\r{line[:100]:<100}", end="", file=sys.stderr, flush=True)

    try:
        result = run_kit(folder, plan, threads or sorted({1, cores()}), progress=say)
    finally:
        print(file=sys.stderr)
    aside = out.with_name(out.name + ".writing")
    with aside.open("w") as file:
        json.dump(result, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(out)
    done = sum(row["status"] == "measured" for row in result["rows"])
    print(f"{done} of {len(result['rows'])} rows measured -> {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time this kit's models on this device.")
    parser.add_argument("--out", type=Path, default=Path("latency.json"), help="where the result goes")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads; default: 1, and all cores")
    parser.add_argument("--seconds", type=float, help="least time per row; default: what the kit says")
    arguments = parser.parse_args()
    if min(arguments.threads or [1]) < 1 or (arguments.seconds or 0) < 0:
        parser.error("expected at least 1 thread and 0 seconds")
    try:
        run(Path(__file__).resolve().parent, arguments.out, threads=arguments.threads, seconds=arguments.seconds)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
