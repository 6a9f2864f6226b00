import pytest
import torch

from benchmarks.rsd_loss import TARGETS, by_autograd, compare, peak_bytes, textbook
from rsd.methods.rsd import rsd_loss


@pytest.mark.parametrize(("batch", "width"), [(24, 40), (12, 40), (40, 24)])
@pytest.mark.parametrize("version", [textbook, by_autograd])
def test_all_versions_compute_the_same_loss(version, batch, width):
    student, teacher = torch.randn(batch, width, requires_grad=True), torch.randn(batch, width)
    losses = [version(student, teacher), rsd_loss(student, teacher)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    ours, theirs = (torch.autograd.grad(loss, student)[0] for loss in losses)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_memory_is_the_peak_not_the_sum():
    def run():
        first = torch.ones(250_000)
        del first
        second, third = torch.ones(500_000), torch.ones(250_000)
        del second, third

    assert peak_bytes(run) == pytest.approx(3_000_000, rel=0.01)


def test_a_row_holds_the_measurement_and_its_target():
    row = compare(128, 768, rounds=2)
    assert row["faster than textbook"].endswith(f"; {TARGETS[128, 768].textbook:g}")
    assert float(row["rsd_loss, MB"]) < float(row["textbook, MB"])
