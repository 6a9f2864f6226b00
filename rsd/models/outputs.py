"""The embedding and the logits of a timm model, from one forward pass."""

from typing import NamedTuple

from torch import Tensor, nn


class Outputs(NamedTuple):
    """Penultimate embedding `[B, D]` and logits `[B, classes]` of a batch."""

    embedding: Tensor
    logits: Tensor


def outputs(model: nn.Module, inputs: Tensor) -> Outputs:
    """One forward pass that keeps the penultimate embedding: inputs `[B, C, H, W]` -> `Outputs`."""
    features = model.forward_features(inputs)  # type: ignore[operator]
    embedding = model.forward_head(features, pre_logits=True)  # type: ignore[operator]
    return Outputs(embedding, model.forward_head(features))  # type: ignore[operator]


def embedding_width(model: nn.Module) -> int:
    """Width of the penultimate embedding, which timm calls `head_hidden_size`."""
    return int(model.head_hidden_size)  # type: ignore[arg-type]
