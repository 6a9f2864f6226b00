"""Synthetic runs that differ as a test asks."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rsd.report.compare.run import ComparedRun
from rsd.report.records import read
from rsd.run.paths import Run
from tests.rsd.report.conftest import write, write_records


@pytest.fixture(scope="session")
def records_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, ...]], Path]:
    """The records of some seeds, which take a second to make and are made once; to be copied."""

    @cache
    def made(seeds: tuple[int, ...]) -> Path:
        out = tmp_path_factory.mktemp("records") / "out"
        write_records(out, seeds=seeds)
        return out

    return made


@pytest.fixture
def make_run(tmp_path: Path, records_of: Callable[[tuple[int, ...]], Path]) -> Callable[..., ComparedRun]:
    """A run by its name, its records edited by `change(out)` before they are read."""

    def make(
        name: str, change: Callable[[Path], None] | None = None, *, seeds: tuple[int, ...] = (0, 1, 2), **more: Any
    ) -> ComparedRun:
        out = tmp_path / name / "out"
        shutil.copytree(records_of(seeds), out)
        if change:
            change(out)
        records = read(Run(out))
        known = {"commit": "0" * 40, "bundle_bytes": 6_000_000, "test_data": "same", **more}
        return ComparedRun(name, records=records, **known)

    return make


def better_by(points: float | dict[int, float], method: str = "rsd") -> Callable[[Path], None]:
    """Raises the test top-1 of a method's students: all alike, or by seed."""

    def change(out: Path) -> None:
        path = out / "evaluate" / "models.json"
        models = json.loads(path.read_text())
        raised = [m for m in models if m["method"] == method]
        for model in raised:
            model["top1"] += points[model["seed"]] if isinstance(points, dict) else points
        write(path, models)

    return change


def on_another_machine(out: Path) -> None:
    path = out / "benchmark" / "latency.json"
    record = json.loads(path.read_text())
    record["device"]["cpu"]["name"] = "ARM Cortex-A78AE"
    write(path, record)
