"""Likeness of representations: linear CKA between the layers of two models, over minibatches."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rsd.machine.errors import UserError
from rsd.models.pixels import PixelNormalize

BATCH_SIZE = 64
LEAST_IMAGES = 4  # the unbiased estimator divides by n - 3
_COLUMNS_AT_ONCE = 65_536  # of a layer's features in float64


@torch.no_grad()
def minibatch_cka(batches: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> pd.DataFrame:
    """Linear CKA between every layer of one model (rows) and every layer of another (columns), over minibatches.

    Nguyen, Raghu and Kornblith (ICLR 2021, equation 4): the mean over minibatches of the unbiased HSIC of two
    layers, over the root of the same means of each layer with itself. HSIC is the estimator of Song et al.
    (JMLR 2012, equation 5), so neither the size nor the number of the minibatches biases its mean. With one
    minibatch it is the full-batch value.

    Sums are float64. A layer that is the same for every image has no CKA: its entries are NaN. Unlike layers
    scatter around 0 and may be slightly negative.

    Args:
        batches: for each minibatch of n images the layers of both models, `[n, ...]` by name; everything behind the
            first dimension is flattened.

    Raises:
        ValueError: n is below 4, or not the same for all layers.
    """
    cross = of_first = of_second = torch.zeros((), dtype=torch.float64)
    rows, columns = list[str](), list[str]()
    for first, second in batches:
        x, y = _grams(list(first.values())), _grams(list(second.values()))
        if x.shape[1] != y.shape[1]:
            raise ValueError("expected layers of the same images, found batches of different sizes")
        n = math.isqrt(x.shape[1])
        scale = n * (n - 3)
        cross = cross + x @ y.T / scale
        of_first = of_first + x.square().sum(1) / scale
        of_second = of_second + y.square().sum(1) / scale
        rows, columns = list(first), list(second)
    return pd.DataFrame((cross / (of_first[:, None] * of_second[None]).sqrt()).cpu().numpy(), rows, columns)


def _grams(layers: Sequence[Tensor]) -> Tensor:
    """The U-centred linear Gram matrix of each layer, flattened: float64 `[layers, n * n]`.

    The inner product of two of them, over n (n - 3), is the unbiased HSIC (Szekely and Rizzo 2014).
    """
    sizes = {len(layer) for layer in layers}
    if len(sizes) != 1 or min(sizes) < LEAST_IMAGES:
        raise ValueError(f"expected layers of one batch of at least {LEAST_IMAGES} images, found {sorted(sizes)}")
    n = sizes.pop()
    grams = []
    for layer in layers:
        features = layer.flatten(1)
        gram = features.new_zeros(n, n, dtype=torch.float64)
        for part in features.split(_COLUMNS_AT_ONCE, dim=1):
            # HSIC does not see a shift. Taking the first image off makes a constant layer exactly zero.
            shifted = part.double() - part[:1].double()
            gram += shifted @ shifted.T
        gram.fill_diagonal_(0)
        rows = gram.sum(1) / (n - 2)
        gram += rows.sum() / (n - 1) - rows[:, None] - rows[None]
        grams.append(gram.fill_diagonal_(0).flatten())
    return torch.stack(grams)


@torch.no_grad()
def layer_features(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What each layer says of a batch `[B, C, H, W]`, in the order of the forward pass.

    Names are timm's (`layer1`, `blocks.0` ...) with `embedding`, the penultimate embedding, at the end. Maps and
    tokens, class tokens among them, are flattened: `[B, features]`.

    Raises:
        UserError: timm cannot take the model apart.
    """
    take_apart = getattr(model, "forward_intermediates", None)
    if take_apart is None or not hasattr(model, "forward_head"):
        raise UserError(
            f"expected a model that timm can take apart, found that {type(model).__name__} has no "
            "forward_intermediates and forward_head; choose another model to compare layers"
        )
    with_tokens = "return_prefix_tokens" in inspect.signature(take_apart).parameters
    try:
        final, layers = take_apart(inputs, **({"return_prefix_tokens": True} if with_tokens else {}))
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"expected a model that timm can take apart, found that {type(model).__name__} cannot be: {error}; "
            "choose another model to compare layers"
        ) from error
    stages = getattr(model, "feature_info", [])
    names = (
        [info["module"] for info in stages] if len(stages) == len(layers) else [str(i + 1) for i in range(len(layers))]
    )
    features = {}
    for name, layer in zip(names, layers, strict=True):
        parts = layer if isinstance(layer, tuple) else (layer,)
        features[name] = torch.cat([part.flatten(1) for part in parts], dim=1)
    features["embedding"] = model.forward_head(final, pre_logits=True).flatten(1)  # type: ignore[operator]
    return features


def compare_layers(
    student: nn.Module,
    student_normalize: PixelNormalize,
    teacher: nn.Module,
    teacher_normalize: PixelNormalize,
    images: np.ndarray,
    *,
    batch_size: int = BATCH_SIZE,
) -> pd.DataFrame:
    """CKA of every layer of a student with every layer of its teacher: columns student_layer, teacher_layer, cka.

    Args:
        student, teacher: in eval mode, where their `normalize` lives.
        images: uint8 `[N, H, W, C]` in an order that mixes the classes; split into near-equal minibatches.
        batch_size: the largest minibatch.

    Raises:
        UserError: fewer than 4 images, or timm cannot take one of the models apart.
    """
    if len(images) < LEAST_IMAGES:
        raise UserError(f"expected at least {LEAST_IMAGES} images to compare layers on, found {len(images)}")

    def layers(raw: Tensor, model: nn.Module, normalize: PixelNormalize) -> dict[str, Tensor]:
        return layer_features(model, normalize(raw.to(normalize.mean.device)))

    batches = map(torch.from_numpy, map(np.array, np.array_split(images, math.ceil(len(images) / batch_size))))
    table = minibatch_cka(
        (layers(raw, student, student_normalize), layers(raw, teacher, teacher_normalize)) for raw in batches
    )
    return pd.DataFrame(
        [
            {"student_layer": row, "teacher_layer": column, "cka": value}
            for row, values in zip(table.index, table.to_numpy().tolist(), strict=True)
            for column, value in zip(table.columns, values, strict=True)
        ]
    )
