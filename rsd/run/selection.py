"""The students of a run, and the one of them that ships. Chosen once: what comes later reads the answer."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from rsd.run.paths import Run
from rsd.run.records import Choice, IndexedStudent, ShippedRecord, StudentIndex


def index(run: Run) -> StudentIndex:
    """The students that the params ask for, in their order; UserError if one was not trained."""
    records = [run.student(method, seed) for method in run.choice().methods for seed in run.choice().seeds]
    return StudentIndex(
        students=[
            IndexedStudent(
                name=record.name,
                method=record.method,
                seed=record.seed,
                validation_top1=record.validation.top1,
                validation_loss=record.validation.loss,
                weights_sha256=record.weights_sha256,
                record_sha256=run.digests(record.place)[record.place],
            )
            for record in records
        ]
    )


def shipped(students: Iterable[IndexedStudent], method: str) -> ShippedRecord:
    """The method's student with the best validation accuracy; of equals the smaller loss. The test split has no say."""
    rivals = [student for student in students if student.method == method]
    best = max(rivals, key=lambda student: (student.validation_top1, -student.validation_loss))
    top1 = f"{best.validation_top1:.2f} %"
    if len(rivals) == 1:
        reason = f"the only student of {method}; validation top-1 {top1}"
    elif sum(rival.validation_top1 == best.validation_top1 for rival in rivals) > 1:
        reason = f"of the students of {method} with the best validation top-1, {top1}, the least loss"
    else:
        reason = f"the best validation top-1 of the {len(rivals)} students of {method}, {top1}"
    return ShippedRecord(
        student=best,
        reason=reason,
        made_from={
            f"students/{best.name}/model.safetensors": best.weights_sha256,
            f"students/{best.name}/student.json": best.record_sha256,
        },
    )


def forget_others(run: Run, choice: Choice) -> None:
    """Remove the students and files that another choice of params has left behind."""
    folders: dict[Path, set[str]] = {
        run.students: set(choice.students),
        run.convert_folder("any").parent: set(choice.precisions),
        run.engine_folder("any").parent: set(choice.precisions),
    }
    for folder, names in folders.items():
        for path in folder.glob("[!.]*"):
            if path.name not in names and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
