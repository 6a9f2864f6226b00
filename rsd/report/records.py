"""What the stages recorded about one run, read for whoever wants to show it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import JsonValue

from rsd.machine.files import read_json
from rsd.report.interval import POINTS, Interval, interval
from rsd.run.names import CALIBRATION, CONFUSION, CURVES, LIKENESS, SAMPLES
from rsd.run.paths import Run
from rsd.run.records import (
    Choice,
    ConvertRecord,
    DatasetRecord,
    DeviceRecord,
    EngineRecord,
    Evaluation,
    EvaluationRecord,
    Latency,
    LatencyRecord,
    ShownRecord,
    StudentRecord,
    TeacherRecord,
)
from rsd.run.snapshot import evaluated


@dataclass(frozen=True)
class Records:
    """One run. What was not written, or is stale, is empty or None; only the evaluated models are always there."""

    choice: Choice
    data: DatasetRecord | None
    teacher: TeacherRecord | None
    evaluation: EvaluationRecord
    curves: pd.DataFrame | None
    calibration: pd.DataFrame | None
    confusion: pd.DataFrame | None
    likeness: pd.DataFrame | None
    """CKA of students' layers with the teacher's."""
    shown: ShownRecord | None
    """The cross-correlation before and after training, or why there is none."""
    students: dict[str, StudentRecord]
    shipped: Evaluation | None
    """The exported student's evaluation."""
    exports: list[ConvertRecord]
    engines: list[EngineRecord]
    benchmark: LatencyRecord | None
    samples: pd.DataFrame | None
    params: dict[str, JsonValue]
    """The resolved sections by name."""
    device: DeviceRecord | None
    left_out: list[str]
    """A sentence for each record that is stale."""

    @property
    def models(self) -> list[Evaluation]:
        return self.evaluation.models

    @property
    def frame(self) -> pd.DataFrame:
        """A row per model; measures that no model has are left out."""
        return pd.DataFrame(self.evaluation.content()).dropna(axis="columns", how="all")

    @property
    def latency(self) -> list[Latency]:
        """The rows of the benchmark."""
        return self.benchmark.rows if self.benchmark else []

    @property
    def versions(self) -> dict[str, str | None]:
        merged: dict[str, str | None] = {}
        for student in self.students.values():
            merged |= student.versions
        return merged | (self.device.versions if self.device else {})

    def gain(self, method: str) -> Interval | None:
        """Test top-1 over the scratch twins, paired by seed, in points; None without such a pair."""
        gains = self.evaluation.gains(method)
        return interval(gains.values(), within=POINTS) if gains else None


def read(run: Run) -> Records:
    """Read a run's records and tables; UserError if no model was evaluated, or a record is damaged."""
    known, evaluation = evaluated(run)
    folder = run.evaluation_folder
    return Records(
        choice=known.choice,
        data=known.data,
        teacher=known.teacher,
        evaluation=evaluation,
        curves=_csv(folder / CURVES),
        calibration=_csv(folder / CALIBRATION),
        confusion=_confusion(folder / CONFUSION),
        likeness=_csv(folder / LIKENESS),
        shown=run.shown_inside(),
        students={student.name: student for student in known.students},
        shipped=known.shipped_evaluation,
        exports=known.converted,
        engines=known.engines,
        benchmark=known.latency,
        samples=_csv(run.benchmark_folder / SAMPLES) if known.latency else None,
        params={
            ".".join(file.relative_to(run.params).with_suffix("").parts): read_json(file)
            for file in sorted(run.params.rglob("*.json"))
        },
        device=known.device,
        left_out=known.left_out,
    )


def _confusion(folder: Path) -> pd.DataFrame | None:
    """The answers of every model in one table, class names as text."""
    answers = {path.stem: _csv(path, dtype=str, keep_default_na=False) for path in sorted(folder.glob("*.csv"))}
    parts = [frame.assign(model=model) for model, frame in answers.items() if frame is not None]
    return pd.concat(parts, ignore_index=True) if parts else None


def _csv(path: Path, **options: Any) -> pd.DataFrame | None:
    """The table, or None if it is missing or has no row."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    frame = pd.read_csv(path, **options)
    return frame if len(frame) else None
