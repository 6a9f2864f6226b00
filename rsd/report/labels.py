"""The labels that a run used, and what its teacher had that its student has not: what its figures rest on."""

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import JsonValue

from rsd.machine.words import counted
from rsd.run.records import Choice, ConvertRecord, DatasetRecord, Section, StudentRecord, TeacherRecord


class LabelUse(NamedTuple):
    """What labels were used for, how many, and on which images."""

    purpose: str
    labels: int
    images: str


def advantage(data: DatasetRecord, teacher: TeacherRecord) -> str:
    """What the teacher had that the student has not, as a sentence."""
    labelled, train = data.train_labels, data.counts["train"]
    parts = ["was trained elsewhere, on images that the student has not"] if teacher.origin else []
    if teacher.learned_from is not None:
        own = f"{teacher.learned_from:,} other images, all labelled"
        same = f"the student's own {counted(teacher.learned_from, 'labelled image')}"
        parts.append(f"learned from {own if 'teacher' in data.counts else same}")
    without = f" and {counted(train - labelled, 'image')} without one" if labelled < train else ""
    sentence = f"the student has {counted(labelled, 'label')}{without}."
    return f"The teacher {' and '.join(parts)}; {sentence}" if parts else sentence.capitalize()


def labels_used(
    choice: Choice,
    data: DatasetRecord,
    teacher: TeacherRecord | None,
    students: Iterable[StudentRecord],
    converted: Iterable[ConvertRecord],
    teacher_recipe: JsonValue,
) -> list[LabelUse]:
    """Every use of labels in a run, stage by stage, and choices without any; a teacher from elsewhere has no recipe."""
    validation, test = data.counts["validation"], data.counts["test"]
    uses = []
    if teacher and teacher.learned_from is not None:
        own = "its own" if "teacher" in data.counts else "the student's, for training"
        uses.append(LabelUse("the teacher's training", teacher.learned_from, own))
    if teacher and teacher.probe:
        by = "validation" if teacher.probe.select == "validation" else "training, by cross-validation"
        uses.append(LabelUse("the teacher's probe", teacher.probe.labels, "the student's, for training"))
        uses.append(LabelUse("the probe's regularisation", teacher.probe.select_labels, by))
    if isinstance(teacher_recipe, dict):
        uses.append(_epoch("the teacher's epoch", Section(teacher_recipe), validation))
    uses.append(LabelUse("whether the teacher is good enough", validation, "validation"))
    uses.append(LabelUse("the students' training", data.train_labels, "training"))
    uses += [_epoch("the students' epoch", student.recipe, validation) for student in [*students][:1]]
    if len(choice.seeds) > 1:
        uses.append(LabelUse(f"which of the {len(choice.seeds)} seeds ships", validation, "validation"))
    if any(record.precision == "int8" for record in converted):
        uses.append(LabelUse("int8: the ranges of values", 0, "training, without their labels"))
        uses.append(LabelUse("int8: which nodes stay in float", validation, "validation"))
    uses.append(LabelUse("the gates before shipping, and every test figure", test, "test"))
    return uses


def _epoch(purpose: str, recipe: Section, validation: int) -> LabelUse:
    if recipe.root.get("select") == "last" and not recipe.root.get("patience"):
        return LabelUse(purpose, 0, "the last epoch is kept")
    return LabelUse(purpose, validation, "validation")
