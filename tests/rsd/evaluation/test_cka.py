from itertools import permutations
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from rsd.evaluation.cka import compare_layers, layer_features, minibatch_cka
from rsd.machine.errors import UserError
from rsd.models.outputs import outputs
from rsd.models.pixels import PixelNormalize


def batch(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(x, width, seed=1):
    """Features that share something with `x`."""
    return x.flatten(1) @ batch(x[0].numel(), width, seed=seed) + 3 * batch(len(x), width, seed=seed + 1)


def hsic(x, y):
    """Song et al. 2012, equation 5, as it is written there."""
    n = len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    k, l = k - torch.diag(k.diagonal()), l - torch.diag(l.diagonal())  # noqa: E741
    one = torch.ones(n, dtype=torch.float64)
    last = 2 / (n - 2) * (one @ k @ l @ one)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return ((k @ l).trace() + middle - last) / (n * (n - 3))


def hsic_by_counting(x, y):
    """The U-statistic itself: the mean of its kernel over all ordered draws of four different images."""
    k, l = (x @ x.T).tolist(), (y @ y.T).tolist()  # noqa: E741
    draws = list(permutations(range(len(x)), 4))
    return sum(k[s][t] * (l[s][t] + l[u][v] - 2 * l[s][u]) for s, t, u, v in draws) / len(draws)


def full_batch(x, y):
    return hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()


def cka(pairs):
    return minibatch_cka(({"first": first}, {"second": second}) for first, second in pairs).iloc[0, 0]


@pytest.mark.parametrize("n", [4, 5, 12, 60])
def test_one_batch_gives_the_full_batch_formula(n):
    x = batch(n, 7) + 2
    y = related(x, 5)
    assert cka([(x, y)]) == pytest.approx(full_batch(x, y).item(), rel=1e-10)


def test_the_estimator_is_the_u_statistic_counted_out():
    x = batch(7, 3) + 1
    y = related(x, 4)
    expected = hsic_by_counting(x, y) / (hsic_by_counting(x, x) * hsic_by_counting(y, y)) ** 0.5
    assert cka([(x, y)]) == pytest.approx(expected, rel=1e-10)


def test_minibatches_average_the_terms_and_not_the_ratios():
    x = batch(36, 6)
    y = related(x, 5)
    parts = list(zip(x.split(12), y.split(12), strict=True))
    cross, first, second = (sum(hsic(*pair) for pair in pairs) for pairs in (
        parts, [(a, a) for a, _ in parts], [(b, b) for _, b in parts])
    )  # fmt: skip
    assert cka(parts) == pytest.approx((cross / (first * second).sqrt()).item(), rel=1e-10)
    assert cka(parts) == pytest.approx(full_batch(x, y).item(), abs=0.1)  # unbiased terms: small batches tell the same


def test_the_order_of_the_batches_does_not_matter():
    x = batch(40, 6)
    pairs = list(zip(x.split(8), related(x, 5).split(8), strict=True))
    assert cka(pairs) == pytest.approx(cka(pairs[::-1]), rel=1e-12)


def test_identical_layers_give_1_and_unrelated_ones_0():
    x = batch(400, 6)
    assert cka([(x, x)]) == pytest.approx(1, abs=1e-12)
    assert cka([(x, batch(400, 9, seed=5))]) == pytest.approx(0, abs=0.02)


def test_unchanged_by_rotation_isotropic_scale_and_shift():
    x = batch(30, 8)
    y = related(x, 5)
    rotation = torch.linalg.qr(batch(8, 8, seed=3)).Q
    assert cka([(x @ rotation, y)]) == pytest.approx(cka([(x, y)]), rel=1e-10)
    assert cka([(x * 37, y * 1e-3)]) == pytest.approx(cka([(x, y)]), rel=1e-10)
    assert cka([(x + 100, y)]) == pytest.approx(cka([(x, y)]), rel=1e-8)
    stretched = x * torch.linspace(0.1, 9, 8, dtype=torch.float64)
    assert abs(cka([(stretched, y)]) - cka([(x, y)])) > 1e-3  # not for every linear map: that would be CCA


def test_symmetric_in_the_two_models():
    layers = {"a": batch(20, 4), "b": related(batch(20, 4), 6)}
    others = {"c": related(batch(20, 4), 3, seed=7), "d": batch(20, 5, seed=9), "e": batch(20, 2, 3, 3, seed=11)}
    one, other = minibatch_cka([(layers, others)]), minibatch_cka([(others, layers)])
    assert (list(one.index), list(one.columns)) == (["a", "b"], ["c", "d", "e"])
    assert np.allclose(one, other.T, rtol=1e-12)


def test_wide_layers_in_parts_make_no_difference(monkeypatch):
    x = batch(9, 3, 5, 5)
    y = related(x, 4)
    whole = cka([(x, y)])
    monkeypatch.setattr("rsd.evaluation.cka._COLUMNS_AT_ONCE", 8)
    assert cka([(x, y)]) == pytest.approx(whole, rel=1e-12)


def test_float32_features_are_accumulated_in_float64():
    x = (batch(64, 50) + 1000).float()  # a mean a thousand times the spread
    y = related(x.double() - 1000, 20).float()
    assert cka([(x, y)]) == pytest.approx(full_batch(x.double() - 1000, y.double()).item(), rel=1e-6)


def test_a_constant_layer_has_no_cka():
    assert np.isnan(cka([(torch.full((8, 3), 0.1), batch(8, 4))]))


@pytest.mark.parametrize("sizes", [(3, 3), (8, 9)])
def test_too_few_images_or_different_ones_are_refused(sizes):
    with pytest.raises(ValueError, match="expected layers"):
        cka([(batch(sizes[0], 2), batch(sizes[1], 2))])


TINY_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
FAMILIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "resnet18": (
        {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]},
        ["act1", "layer1", "layer2", "layer3", "layer4", "embedding"],
    ),
    "mobilenetv2_035": ({}, ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6", "embedding"]),
    "vit_tiny_patch16_224": (TINY_VIT, ["blocks.0", "blocks.1", "embedding"]),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "patch_size": 2, "window_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)},
        ["layers.0", "layers.1", "embedding"],
    ),
    "convnext_atto": (
        {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
        ["stages.0", "stages.1", "stages.2", "stages.3", "embedding"],
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_or_stages_and_the_embedding_are_layers(name):
    arguments, names = FAMILIES[name]
    model = timm.create_model(name, num_classes=3, **arguments).eval()
    images = torch.randn(2, 3, 32, 32)
    layers = layer_features(model, images)
    assert list(layers) == names
    assert all(layer.shape[0] == 2 and layer.ndim == 2 for layer in layers.values())
    with torch.no_grad():
        assert torch.equal(layers["embedding"], outputs(model, images).embedding)


def test_class_tokens_belong_to_their_layer():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TINY_VIT).eval()
    assert layer_features(model, torch.randn(2, 3, 32, 32))["blocks.0"].shape == (2, 17 * 16)


class Whole(nn.Module):
    def forward(self, x):
        return x


class Refusing(Whole):
    def forward_intermediates(self, x):
        raise NotImplementedError("not for this one")

    def forward_head(self, x, pre_logits=False):
        return x


@pytest.mark.parametrize("model", [Whole(), Refusing()])
def test_a_model_without_layers_is_one_sentence(model):
    with pytest.raises(UserError, match=f"take apart, found that {type(model).__name__}"):
        layer_features(model, torch.zeros(1, 3, 8, 8))


def test_two_models_are_compared_layer_by_layer():
    arguments, names = FAMILIES["resnet18"]
    torch.manual_seed(0)
    student, teacher = (timm.create_model("resnet18", num_classes=3, **arguments).eval() for _ in range(2))
    images = np.random.default_rng(0).integers(0, 256, (23, 32, 32, 3), dtype=np.uint8)
    normalize = PixelNormalize([0.5] * 3, [0.25] * 3)
    table = compare_layers(student, normalize, teacher, normalize, images, batch_size=8)
    assert list(table.columns) == ["student_layer", "teacher_layer", "cka"]
    assert list(table.student_layer.unique()) == names
    assert len(table) == len(names) ** 2
    assert table.cka.between(-0.5, 1).all()
    same = compare_layers(teacher, normalize, teacher, normalize, images)
    assert np.allclose(same[same.student_layer == same.teacher_layer].cka, 1)
    with pytest.raises(UserError, match="at least 4 images"):
        compare_layers(student, normalize, teacher, normalize, images[:3])
