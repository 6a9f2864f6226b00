"""The picture for "is my loss working?": the cross-correlation of student and teacher, before and after training."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rsd.methods.rsd import AAD

MAX_CELLS = 64

AAD_PREFIX = "projection.aads.embedding."
"""Where `rsd.methods.rsd` keeps the embedding's AAD in its task state."""


def cross_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """P, whose diagonal RSD draws to 1 and the rest to 0: Pearson's r of every pair of dimensions.

    Args:
        student: `[N, D]`, after the AAD.
        teacher: `[N, D]`.

    Returns:
        float64 `[D, D]`: rows are the teacher's dimensions, columns the student's; 0 where one is constant.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"expected two of one shape [N, D], found {list(student.shape)} and {list(teacher.shape)}")
    return _unit_columns(teacher).T @ _unit_columns(student)


def _unit_columns(z: Tensor) -> Tensor:
    centred = z.double() - z[:1].double()  # a constant column becomes exactly zero
    centred = centred - centred.mean(0)
    norm = centred.norm(dim=0)
    return centred / torch.where(norm > 0, norm, 1.0)


def off_diagonal_rms(correlation: Tensor) -> float:
    """Root mean square of a square matrix without its diagonal; 0 for a single dimension."""
    width = len(correlation)
    squares = correlation.square().sum() - correlation.diagonal().square().sum()
    return float((squares.clamp_min(0) / max(width * (width - 1), 1)).sqrt())


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


def block_means(matrix: Tensor, cells: int = MAX_CELLS) -> Tensor:
    """`matrix` `[D, D]` as at most `cells` x `cells` means of near-equal blocks; unchanged where D is no larger."""
    width = len(matrix)
    if width <= cells:
        return matrix
    cell = torch.arange(width, device=matrix.device) * cells // width
    share = torch.nn.functional.one_hot(cell, cells).to(matrix.dtype)
    share = share / share.sum(0)
    return share.T @ matrix @ share


def picture(student: Tensor, teacher: Tensor) -> dict[str, Any]:
    """P in numbers: diagonal_mean, off_diagonal_rms, and the matrix (block means if it is large), rounded."""
    correlation = cross_correlation(student, teacher)
    return {
        "diagonal_mean": float(correlation.diagonal().mean()),
        "off_diagonal_rms": off_diagonal_rms(correlation),
        "matrix": np.round(block_means(correlation).cpu().numpy(), 4).tolist(),
    }


def describe(before: Tensor, after: Tensor, teacher: Tensor) -> dict[str, Any]:
    """The record of one student: all are embeddings `[N, D]` of the same images, the student's after the AAD.

    Returns:
        images, width, cells (of the drawn matrix), chance (about `1 / sqrt(N)`: what unrelated dimensions show off
        the diagonal), teacher_rms (off the diagonal of the teacher's correlation with itself: what a perfect copy of
        the teacher would show), and `picture` of before and after.
    """
    images, width = teacher.shape
    return {
        "images": images,
        "width": width,
        "cells": min(width, MAX_CELLS),
        "chance": images**-0.5,
        "teacher_rms": off_diagonal_rms(cross_correlation(teacher, teacher)),
        "before": picture(before, teacher),
        "after": picture(after, teacher),
    }


def read_aad(scaffold: Path) -> AAD | None:
    """The trained AAD of the embedding that lies in a run's `scaffold.safetensors`; None if there is none."""
    if not scaffold.is_file():
        return None
    state = {
        name.removeprefix(AAD_PREFIX): tensor
        for name, tensor in load_file(scaffold).items()
        if name.startswith(AAD_PREFIX)
    }
    if "0.weight" not in state or "3.weight" not in state:
        return None
    hidden, student_width = state["0.weight"].shape
    aad = AAD(student_width, len(state["3.weight"]), gamma=hidden / student_width)
    if aad.state_dict().keys() != state.keys():
        return None
    aad.load_state_dict(state)
    return aad


def untrained_like(aad: AAD) -> AAD:
    """A fresh AAD of the same widths."""
    first, last = aad[0], aad[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return AAD(first.in_features, last.out_features, gamma=first.out_features / first.in_features)


@torch.no_grad()
def decoupled(aad: AAD, embedding: Tensor) -> Tensor:
    """The embedding after the AAD as the loss sees it: its batch norm takes the statistics of `embedding` `[N, D]`.

    A fresh batch norm has no running statistics worth the name, so before and after are treated alike.
    """
    told: Tensor = copy.deepcopy(aad).train()(embedding)
    return told
