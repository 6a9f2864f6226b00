import numpy as np
import pandas as pd
import pytest

from rsd.report.charts import speed as latency
from tests.rsd.report.charts.drawn import datasets


def test_many_samples_are_drawn_at_quantiles_and_slowest() -> None:
    random = np.random.default_rng(0)
    samples = pd.DataFrame(
        {
            "runtime": "onnxruntime",
            "precision": "fp32",
            "threads": 1,
            "nanoseconds": random.integers(200_000, 300_000, 50_000),
        }
    )
    rows = max(datasets(latency.latency_distribution(samples)), key=len)
    again = max(datasets(latency.latency_distribution(samples.sample(frac=1, random_state=1))), key=len)
    assert rows == again
    assert len(rows) == latency.LATENCY_QUANTILES
    assert rows[-1]["ms"] == pytest.approx(samples["nanoseconds"].max() / 1e6, rel=1e-4)
    assert rows[-1]["share"] == 1


def test_an_unmeasured_tail_is_not_drawn() -> None:
    row = {"precision": "fp32", "runtime": "onnxruntime", "threads": 1, "p50_ms": 0.2, "p99_ms": None, "accuracy": 97.0}
    assert len(latency.latency_against_accuracy(pd.DataFrame([row])).to_dict()["layer"]) == 2
    assert len(latency.latency_against_accuracy(pd.DataFrame([row | {"p99_ms": 0.3}])).to_dict()["layer"]) == 3


def test_every_runtime_has_its_own_line() -> None:
    columns = ["runtime", "precision", "threads", "nanoseconds"]
    samples = pd.DataFrame(
        [(runtime, "fp32", 1, 1000 * i) for runtime in ("onnxruntime", "pytorch") for i in range(1, 9)], columns=columns
    )
    rows = max(datasets(latency.latency_distribution(samples)), key=len)
    assert {row["series"] for row in rows} == {"1 thread", "PyTorch, 1 thread"}
