"""What RSD offers to look at: its cross-correlation before and after training."""

import numpy as np
import pytest
import torch

from rsd.methods._picture import MAX_CELLS, block_means, describe, picture
from rsd.methods.kd import KDDistiller
from rsd.methods.rsd import AAD, RSDDistiller, decoupled
from rsd.models.outputs import outputs
from tests.rsd.methods.tiny import images, task_of, teacher_outputs, vit


@pytest.mark.parametrize("width", [65, 100, 128, 768])
def test_a_large_matrix_is_drawn_as_block_means(width):
    matrix = torch.randn(width, width, dtype=torch.float64)
    cells = block_means(matrix)
    edges = [-(-width * cell // MAX_CELLS) for cell in range(MAX_CELLS + 1)]
    assert cells.shape == (MAX_CELLS, MAX_CELLS)
    assert max(np.diff(edges)) - min(np.diff(edges)) <= 1
    for row, column in [(0, 0), (3, 60), (MAX_CELLS - 1, 17)]:
        block = matrix[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        assert cells[row, column].item() == pytest.approx(block.mean().item(), abs=1e-12)


def test_a_small_matrix_is_drawn_as_it_is():
    matrix = torch.randn(MAX_CELLS, MAX_CELLS)
    assert block_means(matrix) is matrix


def test_the_record_shows_whether_a_student_learnt():
    teacher = torch.randn(900, 10)
    record = describe(torch.randn(900, 10), teacher + 0.1 * torch.randn(900, 10), teacher, caption="P.")
    assert record.chance == pytest.approx(1 / 30)
    assert record.before.diagonal_mean == pytest.approx(0, abs=0.1)
    assert record.before.off_diagonal_rms == pytest.approx(1 / 30, rel=0.3)
    assert record.after.diagonal_mean > 0.98
    assert record.after.off_diagonal_rms == pytest.approx(record.teacher_rms, rel=0.1)
    assert (record.images, record.width, record.cells) == (900, 10, 10)
    assert np.shape(record.after.matrix) == (10, 10)


def test_a_look_leaves_the_aad_alone():
    aad = AAD(5, 4).eval()
    before = {name: value.clone() for name, value in aad.state_dict().items()}
    embedding = torch.randn(30, 5)
    after = decoupled(aad, embedding)
    assert not aad.training
    assert all(torch.equal(value, before[name]) for name, value in aad.state_dict().items())
    with torch.no_grad():
        assert torch.equal(after, aad.train()(embedding))


@pytest.mark.parametrize(("space", "aad", "width"), [("embedding", "embedding", 20), ("logits", "none", 5)])
def test_rsd_offers_the_first_space_that_it_correlates(space, aad, width):
    task = task_of(RSDDistiller, space=space, aad=aad)
    weights = {name: tensor.clone() for name, tensor in task.trainable_module.state_dict().items()}
    with torch.no_grad():
        answer = outputs(task.get_eval_model(), images())
    side = task.student_side(answer)
    aads = task.trainable_module.projection.aads
    own = getattr(answer, space)
    assert torch.equal(side, decoupled(aads[space], own) if aad == space else own)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in task.trainable_module.state_dict().items())
    teacher = getattr(teacher_outputs(), space)
    record = task.inside(side, teacher, teacher_outputs())
    assert (record.width, record.before, record.after) == (width, picture(side, teacher), picture(teacher, teacher))
    assert ("after its AAD" in record.caption) == (aad == space)


def test_a_method_offers_nothing_unless_it_says_so():
    answer = outputs(vit(), images())
    assert task_of(KDDistiller).student_side(answer) is None
