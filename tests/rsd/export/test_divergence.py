import numpy as np
import pytest
import torch

from rsd.export.divergence import first_divergence, graph_values, in_words, strays
from rsd.export.graph import checked
from rsd.export.half import to_half
from rsd.export.pytorch_values import module_values, parts, torch_values
from tests.rsd.export.conftest import broken

ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_graph_has_the_values_of_its_model(traced, images, name):
    student = traced(name)
    in_torch = torch_values(student.traced.program, images[:3])
    in_onnx = graph_values(student.traced.proto, images[:3])
    assert np.array_equal(in_torch["logits"], student.logits(images[:3]))
    assert len(set(in_torch) & set(in_onnx)) > 15
    divergence = first_divergence(in_torch, in_onnx, 1e-4)
    assert divergence is None or not divergence.beyond


@pytest.mark.parametrize(
    ("name", "node", "part"), [("resnet", "node_relu_3", "layer2.0.act1"), ("vit", "node_gelu", "blocks.0.mlp.act")]
)
def test_the_first_node_that_strays_is_named(traced, images, name, node, part):
    student = traced(name)
    proto = broken(student.traced.proto, node)
    divergence = first_divergence(
        torch_values(student.traced.program, images[:3]), graph_values(proto, images[:3]), 1e-4
    )
    assert divergence is not None
    assert divergence.beyond
    words = in_words(divergence, proto, parts(student.traced.program))
    assert f"the first node where the two part is node '{node}' (Tanh), {part} in PyTorch" in words
    assert "all before agree up to" in words


def test_fp16_is_compared_with_the_fp32_graph(traced, images):
    student = traced("vit")
    below = graph_values(student.traced.proto, images[:3])
    half = checked(to_half(student.traced.proto))
    sound = first_divergence(below, graph_values(half, images[:3]), 0.05)
    assert sound is not None
    assert not sound.beyond
    assert "no single node parts them" in in_words(sound, half)
    divergence = first_divergence(below, graph_values(broken(half, "node_gelu"), images[:3]), 0.05)
    assert divergence is not None
    assert "'node_gelu'" in in_words(divergence, broken(half, "node_gelu"))


def test_values_are_compared_in_order_of_computation():
    divergence = first_divergence(
        {"a": ONES, "b": ONES, "c": ONES}, {"x": ONES, "a": ONES, "b": 2 * ONES, "c": 3 * ONES, "d": ONES}, 0.1
    )
    assert divergence is not None
    assert (divergence.value, divergence.after, divergence.beyond, divergence.share) == ("b", "a", True, 1.0)
    assert first_divergence({"a": ONES}, {"a": ONES[:1]}, 0.1) is None


def test_a_value_that_is_not_finite_diverges():
    divergence = first_divergence({"a": ONES}, {"a": ONES * np.inf}, 0.5)
    assert divergence is not None
    assert "is not finite" in in_words(divergence)


def test_equal_values_put_the_runtime_at_fault():
    assert first_divergence({"a": ONES}, {"a": ONES}, 0.0) is None
    assert "how the runtime optimises it" in in_words(None)


def test_parts_of_a_model_are_compared_by_name():
    first, last, last_of_other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    last_of_other.load_state_dict(last.state_dict())
    one, other = (torch.nn.Sequential(first, torch.nn.ReLU(), end) for end in (last, last_of_other))
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def compared():
        return first_divergence(
            module_values(one, lambda: one(inputs)), module_values(other, lambda: other(inputs)), 0.0
        )

    assert compared() is None
    last_of_other.bias.data[0] += 0.5
    divergence = compared()
    assert divergence is not None
    assert (divergence.value, divergence.after) == ("2", "1")
    assert not first._forward_hooks


def test_strays_are_shares_of_a_values_spread():
    generator = np.random.default_rng(0)
    exact, noise = generator.normal(3, 2, (50, 4)), generator.normal(0, 0.1, (50, 4))
    reference = {"a": exact, "same": np.ones(3), "b": exact, "lost": exact, "broken": exact}
    values = {"b": exact, "a": exact + noise, "same": np.ones(3), "broken": np.full((50, 4), np.inf), "new": exact}
    expected = np.sqrt((noise**2).mean()) / exact.std()
    assert strays(reference, values) == {"a": pytest.approx(expected), "b": 0.0}
    assert [*strays(reference, values)] == ["a", "b"]
