"""What is known of a run and fits together: for whoever shows several of its records at once.

A record that is stale is left out and named, so that figures of two students never stand side by side.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from rsd.machine.errors import UserError
from rsd.run.paths import Run
from rsd.run.records import (
    Choice,
    ConvertRecord,
    DatasetRecord,
    DeviceRecord,
    EngineRecord,
    Evaluation,
    EvaluationRecord,
    ExportRecord,
    LatencyRecord,
    Record,
    ShippedRecord,
    StudentRecord,
    TeacherRecord,
)

Kind = TypeVar("Kind", bound=Record)


@dataclass(frozen=True)
class Snapshot:
    """The records of a run, without those that are missing or stale."""

    choice: Choice
    device: DeviceRecord | None = None
    data: DatasetRecord | None = None
    teacher: TeacherRecord | None = None
    students: list[StudentRecord] = field(default_factory=list)
    shipped: ShippedRecord | None = None
    evaluation: EvaluationRecord | None = None
    export: ExportRecord | None = None
    converted: list[ConvertRecord] = field(default_factory=list)
    engines: list[EngineRecord] = field(default_factory=list)
    latency: LatencyRecord | None = None
    stale: dict[str, str] = field(default_factory=dict)
    """Records that were left out, by their places; each with the cause."""

    @property
    def shipped_evaluation(self) -> Evaluation | None:
        """The exported student on the test split."""
        return self.evaluation.of(self.export.student) if self.evaluation and self.export else None

    @property
    def left_out(self) -> list[str]:
        """A sentence for each cause, with the records that were left out for it."""
        places: dict[str, list[str]] = {}
        for place, cause in self.stale.items():
            places.setdefault(cause, []).append(place)
        return [
            f"{', '.join(each)} {'is' if len(each) == 1 else 'are'} left out: {cause}; run `dvc repro`"
            for cause, each in places.items()
        ]


def snapshot(run: Run) -> Snapshot:
    """Read what there is; UserError if the run has no resolved params, or a record is damaged."""
    choice, stale = run.choice(), run.stale()
    records = [record for record in run.records() if record.place not in stale]

    def each(kind: type[Kind]) -> list[Kind]:
        return [record for record in records if isinstance(record, kind)]

    def one(kind: type[Kind]) -> Kind | None:
        return next(iter(each(kind)), None)

    evaluation = one(EvaluationRecord)
    if evaluation:  # of a larger choice, perhaps
        evaluation.models = [row for row in evaluation.models if row.seed is None or row.model in choice.students]
    return Snapshot(
        choice=choice,
        device=run.device() if run.device_file.is_file() else None,
        data=run.prepared() if run.dataset.is_file() else None,
        teacher=one(TeacherRecord),
        students=each(StudentRecord),
        shipped=one(ShippedRecord),
        evaluation=evaluation,
        export=one(ExportRecord),
        converted=each(ConvertRecord),
        engines=each(EngineRecord),
        latency=one(LatencyRecord),
        stale=stale,
    )


def evaluated(run: Run) -> tuple[Snapshot, EvaluationRecord]:
    """A run whose models were judged; UserError if they were not, or have been trained anew since."""
    if not run.evaluation_file.is_file():
        raise UserError(f"expected evaluated models in {run.folder}, found none; run `make repro`")
    known = snapshot(run)
    if known.evaluation is None:
        cause = known.stale["evaluate/models.json"]
        raise UserError(f"expected an evaluation of this run in {run.folder}, found that {cause}; run `make repro`")
    return known, known.evaluation
