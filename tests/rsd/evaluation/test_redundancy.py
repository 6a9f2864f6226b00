import numpy as np
import pytest
import torch

from rsd.evaluation.redundancy import effective_rank, redundancy


@pytest.mark.parametrize("shape", [(200, 6), (6, 200), (30, 30)])
def test_the_effective_rank_is_the_singular_values_entropy(shape):
    embedding = torch.randn(shape) * torch.linspace(0.1, 3, shape[1]) + 5
    centred = embedding.double().numpy() - embedding.double().numpy().mean(axis=0)
    share = np.linalg.svd(centred, compute_uv=False)
    share = share[share > 1e-9 * share[0]] / share.sum()
    assert effective_rank(embedding) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


def test_the_effective_rank_counts_directions_not_dimensions():
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
