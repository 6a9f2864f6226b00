"""What `rsd` itself offers to someone else's loop."""

import math

import pytest
import torch

import rsd
from tests.readme import block
from tests.rsd.methods.tiny import cnn, images, target, vit


def test_the_public_surface_is_frozen():
    names = ["AAD", "Outputs", "RSDDistiller", "RSDOptions", "Setting", "outputs", "rsd_loss", "rsd_terms"]
    assert rsd.__all__ == names
    assert set(rsd.__all__) <= set(dir(rsd))
    assert {name: getattr(rsd, name).__module__ for name in rsd.__all__} == rsd._HOMES
    with pytest.raises(AttributeError, match="module 'rsd' has no attribute 'rsd_los'"):
        rsd.rsd_los  # noqa: B018


def run(code: str, steps: int) -> dict:
    """The names that a block of the README leaves, given a student, a teacher and a loader of so many batches."""
    torch.manual_seed(0)
    names = {"student": vit(), "teacher": cnn(), "loader": [(images(), target())] * steps}
    exec(code, names)
    return names


@pytest.mark.parametrize("holding", ["import AAD, outputs, rsd_loss", "import RSDDistiller, RSDOptions"])
def test_the_pages_loops_train_the_student_alone(holding):
    code = block("python", holding=holding)
    assert len(code.splitlines()) < 15
    short, long = run(code, 1), run(code, 30)
    losses = [(names["loss"] if "loss" in names else names["result"]["loss"]).item() for names in (short, long)]
    assert math.isfinite(losses[1])
    assert losses[1] < losses[0]
    assert all(torch.equal(value, cnn().state_dict()[key]) for key, value in long["teacher"].state_dict().items())
    assert set(long.get("weights", long["student"].state_dict())) == set(vit().state_dict())
