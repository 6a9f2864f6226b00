"""How long a run takes decides its seeds and views."""

import pytest

from rsd.cli.start import plan
from rsd.cli.start.models import DEVICES, choose_student, choose_teacher
from rsd.cli.start.plan import SEEDS, make_plan
from rsd.cli.start.survey import survey
from rsd.machine.compute import ComputeOptions


@pytest.fixture
def planned(clone, images, monkeypatch):
    content = survey(images, None)
    device = DEVICES["cpu"]
    models = choose_student(None, 16, device), choose_teacher(None, classes=["cat", "dog"], labels=44)

    def planned(step, answer):
        monkeypatch.setattr(plan, "step_seconds", lambda *_: step)
        monkeypatch.setattr(plan, "answer_seconds", lambda *_: answer)
        return make_plan("mine", content, None, 16, device, models, ComputeOptions())

    return planned


def test_a_long_run_gets_one_seed(planned):
    assert planned(step=0.1, answer=0.01).seeds == SEEDS
    assert planned(step=5.0, answer=0.01).seeds == SEEDS[:1]


def test_a_slow_teacher_answers_fewer_views(planned):
    assert planned(step=0.1, answer=0.01).view_count == 30
    assert planned(step=0.1, answer=2.0).view_count == 15
    assert planned(step=0.1, answer=100.0).view_count == 4


def test_the_estimate_counts_every_step(planned):
    mine = planned(step=0.1, answer=0.01)
    steps = mine.recipe.epochs * (44 // mine.recipe.batch_size)
    parts = {part.name.partition(",")[0]: part.seconds for part in mine.parts}
    assert parts["training 6 students"] == pytest.approx(6 * 0.1 * steps)
    assert parts["the teacher's answers"] == pytest.approx(30 * 44 * 0.01)
