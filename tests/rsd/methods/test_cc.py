import pytest

from rsd.methods.cc import CCDistiller, cc_loss
from rsd.models.outputs import outputs
from tests.rsd.methods.formula import ORDER, assert_equal, pair
from tests.rsd.methods.tiny import images, take_step, task_of, teacher_outputs


def test_both_embeddings_are_mapped_to_one_width():
    task = task_of(CCDistiller, width=7).eval()
    result = take_step(task)
    maps = task.get_task_state()["projection"]
    own, other = outputs(task.get_eval_model(), images()).embedding, teacher_outputs().embedding
    mapped = [z @ maps[f"{side}.weight"].T + maps[f"{side}.bias"] for side, z in (("student", own), ("teacher", other))]
    assert mapped[0].shape[1] == 7
    assert result["cc"].item() == pytest.approx(cc_loss(*mapped).item(), rel=1e-5)
    assert task.extra_parameters == 7 * (16 + 1 + 20 + 1)


def textbook_cc(student, teacher):
    difference = abs(student - teacher)
    pairs = [(difference[i] * difference[i + 1]).sum() for i in range(len(student) - 1)]
    return 0.02 * sum(pairs) / len(pairs)


def test_equals_the_papers_formula():
    assert_equal(cc_loss, textbook_cc)


def test_depends_on_the_order_of_the_batch():
    student, teacher = pair(6, 7)
    assert cc_loss(student[ORDER], teacher[ORDER]).item() != pytest.approx(cc_loss(student, teacher).item(), rel=1e-3)
