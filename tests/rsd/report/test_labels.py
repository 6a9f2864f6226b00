"""What labels were used for, and what the teacher had that the student has not."""

from typing import Any

import pytest

from rsd.report.labels import advantage, labels_used
from rsd.run.records import Choice, DatasetRecord, ProbeRecord, StudentRecord, TeacherRecord
from tests.rsd.models.small import dataset
from tests.rsd.run import small

FEW: dict[str, Any] = {"counts": {"train": 448, "validation": 360, "test": 540, "teacher": 449}, "labelled": 20}


def data(**changes: Any) -> DatasetRecord:
    return dataset().model_copy(update=FEW | changes)


def teacher(**changes: Any) -> TeacherRecord:
    return small.teacher().model_copy(update={"learned_from": 449} | changes)


def students(recipe: dict[str, Any]) -> list[StudentRecord]:
    return [
        StudentRecord(
            **small.STUDENT | {"recipe": recipe},
            method="rsd",
            seed=0,
            validation={"top1": 90.0, "loss": 0.5},
            weights_sha256="r",
        )
    ]


@pytest.mark.parametrize(
    ("of_data", "of_teacher", "sentence"),
    [
        (
            {},
            {},
            "The teacher learned from 449 other images, all labelled; "
            "the student has 20 labels and 428 images without one.",
        ),
        (
            {"counts": {"train": 448}},
            {"learned_from": 20},
            "The teacher learned from the student's own 20 labelled images; "
            "the student has 20 labels and 428 images without one.",
        ),
        (
            {"counts": {"train": 448}, "labelled": None},
            {"learned_from": None, "origin": "sha256", "source": "probe"},
            "The teacher was trained elsewhere, on images that the student has not; the student has 448 labels.",
        ),
        (
            {},
            {"origin": "sha256", "source": "finetune"},
            "The teacher was trained elsewhere, on images that the student has not and learned from 449 other images, "
            "all labelled; the student has 20 labels and 428 images without one.",
        ),
        ({}, {"learned_from": None}, "The student has 20 labels and 428 images without one."),
    ],
)
def test_what_the_teacher_had_is_plainly_said(of_data, of_teacher, sentence):
    assert advantage(data(**of_data), teacher(**of_teacher)) == sentence


def test_every_choice_names_the_labels_it_used():
    choice = Choice.model_validate(small.CHOICE | {"seeds": [0, 1, 2]})
    uses = labels_used(choice, data(), teacher(), students({"select": "last"}), [], {"select": "best"})
    assert [(use.purpose, use.labels) for use in uses] == [
        ("the teacher's training", 449),
        ("the teacher's epoch", 360),
        ("whether the teacher is good enough", 360),
        ("the students' training", 20),
        ("the students' epoch", 0),
        ("which of the 3 seeds ships", 360),
        ("the gates before shipping, and every test figure", 540),
    ]


@pytest.mark.parametrize(("recipe", "labels"), [({"select": "best"}, 360), ({"select": "last", "patience": 3}, 360)])
def test_an_epoch_chosen_on_validation_counts_labels(recipe, labels):
    uses = labels_used(Choice.model_validate(small.CHOICE), data(), teacher(), students(recipe), [], None)
    assert {use.purpose: use.labels for use in uses}["the students' epoch"] == labels
    assert not any("seeds" in use.purpose for use in uses)


def test_a_probe_names_what_chose_it():
    probe = ProbeRecord(
        top1=90.0, images=360, knn_top1=80.0, neighbours=5, labels=20, regularisation=1.0, select="cross_validation",
        select_labels=20, pixels_top1=60.0, beats_pixels=True,
    )  # fmt: skip
    finished = teacher(learned_from=None, origin="sha256", probe=probe)
    uses = labels_used(Choice.model_validate(small.CHOICE), data(), finished, [], [], None)
    assert uses[:2] == [
        ("the teacher's probe", 20, "the student's, for training"),
        ("the probe's regularisation", 20, "training, by cross-validation"),
    ]
