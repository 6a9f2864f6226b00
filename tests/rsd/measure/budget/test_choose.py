import numpy as np
import pytest

from rsd.measure.budget.choose import BudgetRow, best, feasible, pareto
from rsd.run.records import Latency


def row(name, p99, top1, device="board", samples=700, parameters=1):
    latency = Latency(
        file=f"{name}.onnx",
        precision="fp32",
        runtime="onnxruntime",
        threads=1,
        status="measured",
        p99_ms=p99,
        p50_ms=1.0,
        samples=samples,
        scenario="single stream",
        batch=1,
    )
    return BudgetRow(device, name, parameters, "fp32", latency, top1, "rsd-0" if top1 else None)


def chosen(rows, p99):
    return {device: one and one.name for device, one in best(rows, p99).items()}


def names(rows):
    return [one.name for one in rows]


def test_the_best_is_the_most_accurate_then_fastest():
    rows = [row("slow", 9.0, 99.0), row("good", 4.0, 97.0), row("also good", 3.0, 97.0), row("fast", 1.0, 90.0)]
    assert chosen(rows, 5.0) == {"board": "also good"}
    assert chosen(rows, 0.5) == {"board": None}
    assert chosen(rows, 100.0) == {"board": "slow"}


def test_too_few_samples_for_a_p99_never_fit():
    assert feasible([row("unknown", None, 99.0, samples=100)], 1e9) == []


def test_untrained_students_are_candidates_the_largest_first():
    rows = [row("small", 1.0, None, parameters=1), row("large", 2.0, None, parameters=9), row("mine", 3.0, 90.0)]
    assert chosen(rows, 5.0) == {"board": "mine"}
    assert names(feasible(rows, 5.0)) == ["mine", "large", "small"]


def test_each_device_has_its_own_front_and_best():
    rows = [row("a", 1.0, 95.0, "one"), row("a", 7.0, 95.0, "two"), row("b", 9.0, 94.0, "two")]
    assert names(pareto(rows)) == ["a", "a"]
    assert chosen(rows, 5.0) == {"one": "a", "two": None}


@pytest.mark.parametrize("seed", range(5))
def test_only_what_is_off_the_front_is_beaten(seed):
    random = np.random.default_rng(seed)
    rows = [row(str(i), float(random.integers(1, 9)), float(random.integers(90, 99))) for i in range(30)]
    front = pareto(rows)

    def beaten(one):
        return any(
            other.p99_ms <= one.p99_ms
            and other.top1 >= one.top1
            and (other.p99_ms, other.top1) != (one.p99_ms, one.top1)
            for other in rows
        )

    assert all(beaten(one) != (one in front) for one in rows)
