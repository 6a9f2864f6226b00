"""Two synthetic runs: the second's RSD students are half a point better, and its device is another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rsd.compare.run import Run
from rsd.report.records import read
from tests.rsd.report.conftest import page_arguments, write, write_records


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """A run by its name; records are made once and edited by `change(out)` before they are read."""

    def make(
        name: str, change: Callable[[Path], None] | None = None, *, seeds: tuple[int, ...] = (0, 1, 2), **more: Any
    ) -> Run:
        out = tmp_path / name / "out"
        write_records(out, seeds=seeds)
        if change:
            change(out)
        wanted = ("evaluation", "students", "export", "engines", "benchmark", "params", "device")
        records = read(**{one: page_arguments(out)[one] for one in wanted})
        known = {"commit": "0" * 40, "bundle_bytes": 6_000_000, "test_data": "same", **more}
        return Run(name, records=records, **known)

    return make


def better_by(points: float, method: str = "rsd") -> Callable[[Path], None]:
    """Raises the test top-1 of a method's students, seed by seed."""

    def change(out: Path) -> None:
        path = out / "evaluate" / "models.json"
        models = json.loads(path.read_text())
        write(path, [m | {"top1": m["top1"] + points * (m["method"] == method)} for m in models])

    return change


def on_another_machine(out: Path) -> None:
    path = out / "benchmark" / "latency.json"
    record = json.loads(path.read_text())
    record["device"]["cpu"]["name"] = "ARM Cortex-A78AE"
    write(path, record)
