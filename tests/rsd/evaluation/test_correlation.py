import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rsd.evaluation.correlation import (
    MAX_CELLS,
    block_means,
    cross_correlation,
    decoupled,
    describe,
    effective_rank,
    off_diagonal_rms,
    read_aad,
    redundancy,
    untrained_like,
)
from rsd.methods.base import Setting
from rsd.methods.rsd import AAD, RSDDistiller, correlate, rsd_terms
from rsd.models.timm_model import ModelOptions, create
from rsd.training.loop import _scaffold


def test_it_is_pearsons_r_of_every_pair_with_the_teacher_in_the_rows():
    student, teacher = torch.randn(40, 3), torch.randn(40, 3)
    expected = np.corrcoef(teacher.numpy(), student.numpy(), rowvar=False)[:3, 3:]
    assert np.allclose(cross_correlation(student, teacher).numpy(), expected, atol=1e-6)


def test_it_is_the_matrix_inside_the_loss():
    student, teacher = torch.randn(64, 12, dtype=torch.float64), torch.randn(64, 12, dtype=torch.float64)
    correlation = cross_correlation(student, teacher)
    invariance, redundancy = rsd_terms(student, teacher)
    assert (correlation.diagonal() - 1).square().sum().item() == pytest.approx(invariance.item(), rel=1e-3)
    assert off_diagonal_rms(correlation) ** 2 * 12 * 11 == pytest.approx(redundancy.item(), rel=1e-3)
    assert torch.allclose(correlation.diagonal(), correlate(student, teacher).diagonal, atol=1e-4)


def test_a_constant_dimension_correlates_with_nothing():
    student = torch.randn(20, 4)
    student[:, 2] = 0.1
    correlation = cross_correlation(student, torch.randn(20, 4))
    assert (correlation[:, 2] == 0).all()
    assert torch.isfinite(correlation).all()


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        cross_correlation(torch.randn(5, 3), torch.randn(5, 4))


@pytest.mark.parametrize("shape", [(200, 6), (6, 200), (30, 30)])
def test_the_effective_rank_is_the_entropy_of_the_singular_values(shape):
    embedding = torch.randn(shape) * torch.linspace(0.1, 3, shape[1]) + 5
    centred = embedding.double().numpy() - embedding.double().numpy().mean(axis=0)
    share = np.linalg.svd(centred, compute_uv=False)
    share = share[share > 1e-9 * share[0]] / share.sum()
    assert effective_rank(embedding) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


def test_the_effective_rank_counts_directions_not_dimensions_and_sees_no_scale_turn_or_shift():
    directions = torch.linalg.qr(torch.randn(500, 3, dtype=torch.float64) - 0.5).Q
    directions = torch.linalg.qr(directions - directions.mean(0)).Q
    wide = directions @ torch.linalg.qr(torch.randn(40, 3, dtype=torch.float64)).Q.T
    assert effective_rank(wide) == pytest.approx(3, rel=1e-6)
    assert effective_rank(100 * wide + torch.randn(40)) == pytest.approx(3, rel=1e-6)
    assert effective_rank(wide[:, :1].expand(500, 7)) == pytest.approx(1, rel=1e-6)
    assert effective_rank(torch.full((9, 4), 0.1)) == 0


def test_dimensions_that_say_the_same_are_redundant():
    noise = torch.randn(4000, 8, dtype=torch.float64)
    apart, same = redundancy(noise), redundancy(noise[:, :1].expand(4000, 8))
    assert apart["embedding_width"] == same["embedding_width"] == 8
    assert apart["effective_rank"] > 7.9
    assert apart["correlation_rms"] < 2 * 4000**-0.5
    assert same["effective_rank"] == pytest.approx(1, rel=1e-6)
    assert same["correlation_rms"] == pytest.approx(1)


@pytest.mark.parametrize("width", [65, 100, 128, 768])
def test_a_large_matrix_is_drawn_as_means_of_near_equal_blocks_that_cover_it(width):
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


def test_the_record_tells_a_student_that_learnt_from_one_that_did_not():
    teacher = torch.randn(900, 10)
    record = describe(torch.randn(900, 10), teacher + 0.1 * torch.randn(900, 10), teacher)
    assert record["chance"] == pytest.approx(1 / 30)
    assert record["before"]["diagonal_mean"] == pytest.approx(0, abs=0.1)
    assert record["before"]["off_diagonal_rms"] == pytest.approx(1 / 30, rel=0.3)
    assert record["after"]["diagonal_mean"] > 0.98
    assert record["after"]["off_diagonal_rms"] == pytest.approx(record["teacher_rms"], rel=0.1)
    assert (record["images"], record["width"], record["cells"]) == (900, 10, 10)
    assert np.shape(record["after"]["matrix"]) == (10, 10)


def student():
    torch.manual_seed(3)
    args = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    return create(ModelOptions(name="vit_tiny_patch16_224", args=args), classes=2, image_shape=(8, 8, 1))


def test_the_aad_of_a_run_is_read_back_and_a_fresh_one_is_as_it_was_before_training(tmp_path):
    task = RSDDistiller(student(), Setting(teacher_width=6))
    path = tmp_path / "scaffold.safetensors"
    save_file(_scaffold(task), path)
    aad = read_aad(path)
    assert aad is not None
    assert all(
        torch.equal(value, task.get_task_state()["projection"][f"aads.embedding.{name}"])
        for name, value in aad.state_dict().items()
    )
    student()  # draws as many numbers as before
    fresh = untrained_like(aad)
    assert all(torch.equal(value, aad.state_dict()[name]) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize(
    "scaffold", [{}, {"projection.weight": torch.zeros(2, 3)}, {"bank": torch.zeros(2, 3)}], ids=str
)
def test_a_run_without_an_aad_is_none(tmp_path, scaffold):
    assert read_aad(tmp_path / "missing.safetensors") is None
    save_file(scaffold, tmp_path / "scaffold.safetensors")
    assert read_aad(tmp_path / "scaffold.safetensors") is None


def test_the_aad_is_seen_as_the_loss_sees_it_and_is_left_as_it_was():
    aad = AAD(5, 4).eval()
    before = {name: value.clone() for name, value in aad.state_dict().items()}
    embedding = torch.randn(30, 5)
    told = decoupled(aad, embedding)
    assert not aad.training
    assert all(torch.equal(value, before[name]) for name, value in aad.state_dict().items())
    with torch.no_grad():
        assert torch.equal(told, aad.train()(embedding))
