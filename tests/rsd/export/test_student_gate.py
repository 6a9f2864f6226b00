"""A student that has learned nothing is not exported."""

import numpy as np
import pytest

from rsd.export.student_gate import StudentGate
from rsd.machine.errors import UserError

LABELS = np.repeat([0, 1, 2], [50, 30, 20])
NAMES = ["a", "b", "c"]


def answers(classes: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[classes]


def test_one_class_for_all_stops_the_export():
    with pytest.raises(
        UserError, match=r"student rsd-0 a better top-1 than 50.00 %.*found 50.00 % .*class 'a' for every"
    ):
        StudentGate().check("rsd-0", answers(np.zeros(100, int)), LABELS, NAMES)


def test_a_student_no_better_than_luck_is_stopped():
    few = LABELS.copy()
    few[:45] = 2
    with pytest.raises(UserError, match=r"found 55.00 % of 100 images on the test split; nothing is exported"):
        StudentGate().check("rsd-0", answers(few), LABELS, NAMES)


def test_a_student_above_the_gate_passes():
    StudentGate().check("rsd-0", answers(LABELS), LABELS, NAMES)
    StudentGate(min_top1=0).check("rsd-0", answers(np.zeros(100, int)), LABELS, NAMES)
    with pytest.raises(UserError, match=r"at least 60.00 % top-1, found 50.00 %.*lower student.min_top1"):
        StudentGate(min_top1=60).check("rsd-0", answers(np.zeros(100, int)), LABELS, NAMES)
