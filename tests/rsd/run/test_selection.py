"""Which students a run has, which one ships, and what is forgotten."""

import pytest

from rsd.run.records import IndexedStudent
from rsd.run.selection import forget_others, index, shipped
from tests.rsd.run.small import whole_run


def student(seed: int, top1: float, loss: float, method: str = "rsd") -> IndexedStudent:
    name = f"{method}-{seed}"
    digests = {"weights_sha256": name, "record_sha256": f"record of {name}"}
    return IndexedStudent(name=name, method=method, seed=seed, validation_top1=top1, validation_loss=loss, **digests)


@pytest.mark.parametrize(
    ("students", "name", "reason"),
    [
        ([student(0, 90, 0.1), student(1, 95, 0.5)], "rsd-1", "the best validation top-1 of the 2 students"),
        (
            [student(0, 90, 0.2), student(1, 90, 0.1)],
            "rsd-1",
            "with the best validation top-1, 90.00 %, the least loss",
        ),
        ([student(4, 10, 9.0), student(0, 99, 0.0, "scratch")], "rsd-4", "the only student of rsd"),
    ],
)
def test_the_best_on_validation_ships_with_the_reason(students, name, reason):
    record = shipped(students, "rsd")
    assert record.student.name == name
    assert reason in record.reason
    assert record.made_from == {
        f"students/{name}/model.safetensors": name,
        f"students/{name}/student.json": f"record of {name}",
    }


def test_the_index_holds_the_chosen_students_in_order(tmp_path):
    assert [one.name for one in index(whole_run(tmp_path)).students] == ["scratch-0", "rsd-0"]


def test_only_folders_of_another_choice_are_forgotten(tmp_path):
    run = whole_run(tmp_path)
    (run.students / "kd-0").mkdir()
    (run.students / "notes.txt").write_text("mine")
    (run.convert_folder("fp16")).mkdir()
    forget_others(run, run.choice())
    assert {path.name for path in run.students.iterdir()} == {"scratch-0", "rsd-0", "notes.txt"}
    assert {path.name for path in run.convert_folder("fp32").parent.iterdir()} == {"fp32", "int8"}
