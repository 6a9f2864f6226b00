"""How much the dimensions of an embedding say the same."""

import torch
from torch import Tensor

from rsd.models.correlation import cross_correlation, off_diagonal_rms


def effective_rank(embedding: Tensor) -> float:
    """How many directions the embeddings `[N, D]` of N images fill, between 1 and min(N - 1, D); 0 if all are equal.

    The exponential of the entropy of their singular values' shares, after the mean image is taken off (Roy and
    Vetterli, "The effective rank", EUSIPCO 2007).
    """
    # The smaller of the two Gram matrices has the squares; a constant column is exactly zero in it.
    centred = embedding.double() - embedding[:1].double()
    centred = centred - centred.mean(0)
    gram = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    values = torch.where(values > values.max() * len(gram) * torch.finfo(torch.float64).eps, values, 0.0).sqrt()
    if not values.any():
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def redundancy(embedding: Tensor) -> dict[str, float]:
    """How much the D dimensions of a model's embeddings `[N, D]` say the same.

    Returns:
        embedding_width D, effective_rank, and correlation_rms: of the correlations between two dimensions, which unlike
        ones show by chance to about `1 / sqrt(N)`.
    """
    return {
        "embedding_width": embedding.shape[1],
        "effective_rank": effective_rank(embedding),
        "correlation_rms": off_diagonal_rms(cross_correlation(embedding, embedding)),
    }
