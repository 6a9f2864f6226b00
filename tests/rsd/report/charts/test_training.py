import re

import numpy as np
import pandas as pd
import pytest

from rsd.report.charts import training
from rsd.report.charts.style import svg
from tests.rsd.report.charts.drawn import datasets, scale


def curves(epochs: int, models: int = 2) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "model": f"rsd-{seed}",
                "method": "rsd",
                "seed": seed,
                "epoch": np.arange(1.0, epochs + 1),
                "learning_rate": 0.1,
                "loss": np.linspace(3, 0.02, epochs),
                "cross_entropy": np.linspace(2, 1, epochs),
                "ofa": np.nan,
                "off_diagonal_rms": 0.2,
                "off_diagonal_chance": 0.1,
                "gradient_norm": 1.0,
                "validation_top1": 90.0,
                "validation_loss": 0.4,
            }
        )
        for seed in range(models)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 6, 7, 12, 300])
def test_each_label_of_the_epochs_stands_once(epochs: int) -> None:
    drawn = svg(training.learning_curve(curves(epochs), "loss", title="loss"))
    axis = re.search(r"X-axis titled.*?role-axis-label.*?</g>", drawn, re.DOTALL)
    labels = [int(label) for label in re.findall(r">(\d+)</text>", axis[0] if axis else "")]
    assert labels
    assert labels == sorted(set(labels))
    assert epochs > 5 or labels == list(range(1, epochs + 1))


def test_loss_terms_have_values_and_vitals_come_last() -> None:
    assert training.loss_terms(curves(3)) == [
        "loss",
        "cross_entropy",
        "off_diagonal_rms",
        "gradient_norm",
        "learning_rate",
    ]


def test_a_long_history_is_thinned_evenly() -> None:
    (rows,) = datasets(training.learning_curve(curves(1000), "loss"))
    epochs = sorted({row["epoch"] for row in rows})
    assert len(epochs) == training.LEARNING_CURVE_POINTS
    assert (epochs[0], epochs[-1]) == (1, 1000)


def test_a_wide_ranging_term_gets_a_logarithmic_axis() -> None:
    assert scale(training.learning_curve(curves(50), "loss"), "y")["type"] == "log"
    assert "type" not in scale(training.learning_curve(curves(50), "cross_entropy"), "y")


def test_off_diagonal_correlation_stands_beside_its_chance_level() -> None:
    (rows,) = datasets(training.learning_curve(curves(3), "off_diagonal_rms"))
    assert all(row["off_diagonal_chance"] == 0.1 for row in rows)
