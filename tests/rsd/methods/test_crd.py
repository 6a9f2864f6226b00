import math

import pytest
import torch
from torch.nn.functional import normalize

from rsd.machine.errors import UserError
from rsd.methods.base import Setting
from rsd.methods.crd import CRDDistiller, MemoryBank, crd_loss
from tests.rsd.methods.formula import assert_equal
from tests.rsd.methods.tiny import BATCH, IMAGES, take_step, task_of, vit

INDEX = torch.arange(BATCH) * 3


def test_the_banks_remember_only_the_batchs_images():
    task = task_of(CRDDistiller, momentum=0.25, negatives=8)
    bank = task.trainable_module.get_submodule("projection.teacher_bank")
    before = bank.vectors.clone()
    teacher = normalize(torch.randn(BATCH, bank.vectors.shape[1]))
    bank.remember(teacher, INDEX, momentum=0.25)
    assert torch.allclose(bank.vectors[INDEX], normalize(0.25 * before[INDEX] + 0.75 * teacher), atol=1e-6)
    others = torch.ones(IMAGES, dtype=torch.bool)
    others[INDEX] = False
    assert torch.equal(bank.vectors[others], before[others])


def test_a_step_writes_both_banks_evaluation_neither():
    for training in (True, False):
        task = task_of(CRDDistiller, negatives=8).train(training)
        before = {key: value.clone() for key, value in task.get_task_state()["projection"].items() if "bank" in key}
        take_step(task)
        after = task.get_task_state()["projection"]
        for side in ("student", "teacher"):
            assert torch.equal(before[f"{side}_bank.vectors"], after[f"{side}_bank.vectors"]) != training


def test_the_first_batch_fixes_the_partition():
    bank = MemoryBank(IMAGES, 6).train()
    anchor, others = normalize(torch.randn(BATCH, 6)), torch.randint(IMAGES, (BATCH, 9))
    first = bank.contrast(anchor, INDEX, others, temperature=0.1)
    scores = anchor @ bank.vectors.T
    used = torch.cat([scores.gather(1, INDEX[:, None]), scores.gather(1, others)], 1) / 0.1
    estimate = float(used.double().exp().mean().log())
    assert bank.log_partition.item() == pytest.approx(estimate, rel=1e-5)
    expected = crd_loss(scores.gather(1, INDEX[:, None])[:, 0], scores.gather(1, others), log_partition=estimate,
                        temperature=0.1)  # fmt: skip
    assert first.item() == pytest.approx(expected.item(), rel=1e-5)
    bank.contrast(-anchor, INDEX, others, temperature=0.1)
    assert bank.log_partition.item() == pytest.approx(estimate, rel=1e-5)


def test_an_image_is_never_its_own_negative(monkeypatch):
    task = task_of(CRDDistiller, negatives=500)
    contrasted = []
    real = MemoryBank.contrast

    def spy(self, anchor, index, others, **options):
        contrasted.append(others)
        return real(self, anchor, index, others, **options)

    monkeypatch.setattr(MemoryBank, "contrast", spy)
    take_step(task)
    for row, own in zip(contrasted[0], INDEX, strict=True):
        assert set(row.tolist()) == set(range(IMAGES)) - {int(own)}


def test_vectors_that_agree_cost_less_than_others():
    bank = MemoryBank(IMAGES, 6).eval()
    bank.log_partition.fill_(math.log(1.0))
    others = (INDEX[:, None] + torch.arange(1, 9)) % IMAGES
    matched = bank.contrast(bank.vectors[INDEX], INDEX, others, temperature=0.07)
    assert matched < bank.contrast(-bank.vectors[INDEX], INDEX, others, temperature=0.07)


def test_unknown_images_are_refused():
    with pytest.raises(ValueError, match="give image_count"):
        CRDDistiller(vit(), Setting(teacher_width=20))
    with pytest.raises(UserError, match="at least 2 training images for method 'crd', found 1"):
        CRDDistiller(vit(), Setting(teacher_width=20, image_count=1))
    with pytest.raises(ValueError, match="give index"):
        take_step(task_of(CRDDistiller), index=None)


def textbook_crd(scores, log_partition, temperature):
    """The first column is the positive; `M = 50`, so `Z = 50 exp(log_partition)`."""
    negatives, images = scores.shape[1] - 1, 50
    p = (scores / temperature).exp() / (images * math.exp(log_partition))
    h = p / (p + negatives / images)
    return -(h[:, 0].log() + (1 - h[:, 1:]).log().sum(1)).mean()


def test_equals_the_papers_formula():
    assert_equal(
        lambda s, t: crd_loss(s[:, 0].tanh(), s[:, 1:].tanh(), log_partition=0.3, temperature=0.5),
        lambda s, t: textbook_crd(s.tanh(), 0.3, 0.5),
    )


def test_similarities_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="expected .B. and .B, K."):
        crd_loss(torch.zeros(2, 1), torch.zeros(2, 3), log_partition=0.0)


def test_an_image_that_comes_twice_is_remembered_once():
    bank, again = (MemoryBank(9, 4).train() for _ in range(2))
    again.load_state_dict(bank.state_dict())
    vectors = normalize(torch.randn(5, 4))
    index = torch.tensor([3, 1, 3, 8, 3])
    bank.remember(vectors, index, momentum=0.5)
    again.remember(vectors[[1, 3, 4]], index[[1, 3, 4]], momentum=0.5)
    assert torch.equal(bank.vectors, again.vectors)
