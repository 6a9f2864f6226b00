"""What the stages recorded about one run, read for whoever wants to show it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rsd.machine.errors import UserError
from rsd.report.interval import Interval, interval
from rsd.report.table import PRECISIONS
from rsd.run.records import Latency, LatencyRecord


@dataclass(frozen=True)
class Records:
    """One run. What was not written is empty or None; only the evaluated models are always there."""

    models: list[dict[str, Any]]
    curves: pd.DataFrame | None
    calibration: pd.DataFrame | None
    confusion: pd.DataFrame | None
    likeness: pd.DataFrame | None
    """CKA of students' layers with the teacher's."""
    correlation: dict[str, Any]
    """The cross-correlation before and after training, or why there is none."""
    students: dict[str, dict[str, Any]]
    exports: list[dict[str, Any]]
    engines: list[dict[str, Any]]
    benchmark: LatencyRecord | None
    samples: pd.DataFrame | None
    params: dict[str, Any]
    device: dict[str, Any]

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.models)

    @property
    def run(self) -> dict[str, Any]:
        """The names and lists at the top of params.yaml."""
        return self.params.get("run") or {}

    @property
    def shipped(self) -> dict[str, Any] | None:
        """The exported student's evaluation."""
        names = [record.get("student") for record in self.exports]
        return next((model for model in self.models if model["model"] in names), None)

    @property
    def latency(self) -> list[Latency]:
        """The rows of the benchmark."""
        return self.benchmark.rows if self.benchmark else []

    @property
    def judged(self) -> list[str]:
        """Precisions whose parity gate has judged; they have passed, since a gate that is missed stops the pipeline."""
        return [export["precision"] for export in self.exports if parity(export)]

    @property
    def versions(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for record in [*self.students.values(), self.device]:
            merged |= record.get("versions") or {}
        return merged

    def gain(self, method: str) -> Interval | None:
        """Test top-1 over the scratch twins, paired by seed, in points; None without such a pair."""
        if method in ("teacher", "scratch"):
            return None
        frame = self.frame
        twins = frame[frame["method"] == "scratch"].set_index("seed")["top1"]
        gains = (frame[frame["method"] == method].set_index("seed")["top1"] - twins).dropna()
        return interval(gains) if len(gains) else None


def parity(export: dict[str, Any]) -> dict[str, Any]:
    return export.get("parity") or {}


def read(
    *,
    evaluation: Path,
    students: Path,
    convert: Path,
    engines: Path,
    benchmark: Path,
    params: Path,
    device: Path,
) -> Records:
    """Read the folders as `page.write_page` describes them; UserError if no model was evaluated."""
    models = _json(evaluation / "models.json")
    if not models:
        raise UserError(
            f"expected the evaluated models in {evaluation / 'models.json'}, found none: "
            "run the stage `evaluate` first."
        )
    latency = _json(benchmark / "latency.json")
    chosen = (_json(params / "run.json") or {}).get("precisions")
    evaluated = {model["model"] for model in models}
    return Records(
        models=models,
        curves=_csv(evaluation / "curves.csv"),
        calibration=_csv(evaluation / "calibration.csv"),
        confusion=_confusion(evaluation / "confusion"),
        likeness=_csv(evaluation / "cka.csv"),
        correlation=_json(evaluation / "correlation.json") or {},
        students={
            file.parent.name: _json(file)
            for file in sorted(students.glob("*/student.json"))
            if file.parent.name in evaluated
        },
        exports=_by_precision(convert, "convert.json", chosen),
        engines=_by_precision(engines, "engine.json", chosen),
        benchmark=LatencyRecord.model_validate(latency) if latency else None,
        samples=_csv(benchmark / "samples.csv.gz"),
        params={
            ".".join(file.relative_to(params).with_suffix("").parts): _json(file)
            for file in sorted(params.rglob("*.json"))
        },
        device=_json(device) or {},
    )


def _by_precision(folder: Path, name: str, chosen: list[str] | None) -> list[dict[str, Any]]:
    """The records below `folder` of the chosen precisions, in the order fp32, fp16, int8."""
    files = [file for file in sorted(folder.glob(f"*/{name}")) if chosen is None or file.parent.name in chosen]
    records = [{"precision": file.parent.name, **_json(file)} for file in files]
    rank = {precision: i for i, precision in enumerate(PRECISIONS)}
    return sorted(records, key=lambda record: rank.get(record["precision"], len(rank)))


def _confusion(folder: Path) -> pd.DataFrame | None:
    """The answers of every model in one table, class names as text."""
    answers = {path.stem: _csv(path, dtype=str, keep_default_na=False) for path in sorted(folder.glob("*.csv"))}
    parts = [frame.assign(model=model) for model, frame in answers.items() if frame is not None]
    return pd.concat(parts, ignore_index=True) if parts else None


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _csv(path: Path, **options: Any) -> pd.DataFrame | None:
    """The table, or None if it is missing or has no row."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    frame = pd.read_csv(path, **options)
    return frame if len(frame) else None
