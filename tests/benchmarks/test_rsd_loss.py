import pytest
import torch

from benchmarks.rsd_loss import TARGETS, compare, peak_bytes, textbook
from rsd.methods.rsd import rsd_loss


def test_both_versions_compute_the_same_loss():
    student, teacher = torch.randn(24, 40), torch.randn(24, 40)
    assert textbook(student, teacher).item() == pytest.approx(rsd_loss(student, teacher).item(), rel=1e-4)


def test_memory_is_the_peak_not_the_sum():
    def run():
        first = torch.ones(250_000)
        del first
        second, third = torch.ones(500_000), torch.ones(250_000)
        del second, third

    assert peak_bytes(run) == pytest.approx(3_000_000, rel=0.01)


def test_a_row_holds_the_measurement_and_its_target():
    row = compare(128, 768, rounds=2)
    assert row["target"] == f"{TARGETS[128, 768][0]:g}x"
    assert float(row["rsd_loss, MB"]) < float(row["textbook, MB"])
