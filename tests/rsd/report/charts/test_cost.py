import numpy as np
import pandas as pd

from rsd.report.charts.cost import front, size_against_accuracy
from tests.rsd.report.charts.drawn import datasets


def test_the_front_is_what_no_other_row_beats() -> None:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.integers(0, 40, (30, 2)), columns=["bytes", "top1"]).drop_duplicates().astype(float)
    rows.loc[rows.index[3], "bytes"] = np.nan

    def beaten(one: pd.Series) -> bool:
        at_least = rows[(rows["bytes"] <= one["bytes"]) & (rows["top1"] >= one["top1"])]
        return len(at_least) > 1

    expected = [pd.notna(one["bytes"]) and not beaten(one) for _, one in rows.iterrows()]
    assert front(rows, "bytes", "top1").tolist() == expected
    assert sum(expected) > 2


def test_models_and_files_are_points_of_one_chart() -> None:
    rows = pd.DataFrame(
        {
            "name": ["teacher", "RSD", "fp16.onnx"],
            "method": ["teacher", "rsd", None],
            "precision": [None, None, "fp16"],
            "bytes": [4e6, 1e5, 6e4],
            "top1": [98.0, 97.0, 97.0],
        }
    )
    (drawn,) = datasets(size_against_accuracy(rows))
    assert [(row["name"], row["front"], row["exported"]) for row in drawn] == [
        ("teacher", True, False),
        ("RSD", False, False),
        ("fp16.onnx", True, True),
    ]
    assert len({row["paint"] for row in drawn}) == 3
