import pytest

from benchmarks.paper_cost import PAIRS, cost, row, throughput

FILE = PAIRS / "cifar100" / "swin_t-resnet18.yaml"


def test_flops_are_the_published_ones_of_the_models():
    """4.5 and 1.8 thousand million multiplications with additions, arXiv 2103.14030 and 1512.03385."""
    forward = cost(FILE, views=30).forward
    assert forward["teacher"] / 2e9 == pytest.approx(4.5, abs=0.05)
    assert forward["student"] / 2e9 == pytest.approx(1.8, abs=0.05)


def test_a_run_costs_its_images_times_its_epochs():
    result = cost(FILE, views=30)
    assert result.student == 3 * result.forward["student"] * 50_000 * 300
    assert (result.live, result.stored) == (result.forward["teacher"] * 50_000 * 300, result.live / 10)
    assert result.store == 50_000 * 30 * (768 + 100) * 2
    assert cost(PAIRS / "imagenet" / "swin_t-resnet18.yaml", views=1).finetuning == 0


def test_hours_are_flops_by_each_models_throughput():
    result = cost(FILE, views=30)
    line = row(result, teacher=result.live / 3600, student=result.student / 7200)
    assert (line["scratch, h"], line["RSD, live teacher, h"], line["RSD, stored views, h"]) == ("2.0", "3.0", "2.1")


@pytest.mark.slow
def test_a_throughput_is_measured_here():
    assert throughput('{"name": "test_resnet"}', 10, training=True, device="cpu", batch=1) > 0
