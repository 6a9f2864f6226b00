import numpy as np
import pandas as pd

from rsd.report.charts import inside
from rsd.report.charts.style import svg
from tests.rsd.report.charts.drawn import datasets, scale


def test_the_heat_map_leaves_out_layers_without_cka() -> None:
    likeness = pd.DataFrame(
        {"student_layer": ["a", "a", "b", "b"], "teacher_layer": ["c", "d"] * 2, "cka": [0.2, np.nan, -0.01, 0.9]}
    )
    chart = inside.layer_likeness(likeness)
    assert [row["cka"] for row in datasets(chart)[0]] == [0.2, None, -0.01, 0.9]
    assert scale(chart, "opacity")["domain"] == [0, 1]
    assert all("isValid(datum.cka)" in str(layer["transform"]) for layer in chart.to_dict()["layer"])
    assert chart.to_dict()["layer"][0]["encoding"]["y"]["sort"] == ["d", "c"]  # the first at the bottom


def test_many_layers_are_drawn_without_numbers() -> None:
    likeness = pd.DataFrame(
        [{"student_layer": f"s{i}", "teacher_layer": f"t{j}", "cka": 0.5} for i in range(9) for j in range(3)]
    )
    assert [layer["mark"]["type"] for layer in inside.layer_likeness(likeness).to_dict()["layer"]] == ["rect"]


def test_a_correlations_colour_shows_sign_and_size() -> None:
    chart = inside.correlation_matrix([[0.9, -0.1], [0.2, 0.8]], most=0.9)
    assert {(row["teacher"], row["student"]): row["r"] for row in datasets(chart)[0]} == {
        (0, 0): 0.9, (0, 1): -0.1, (1, 0): 0.2, (1, 1): 0.8
    }  # fmt: skip
    assert scale(chart, "opacity")["domain"] == [0, 0.9]


def test_the_part_that_strays_most_is_named():
    rows = [
        {"precision": precision, "depth": i / 3, "error": error, "value": f"v{i}", "part": f"blocks.{i}"}
        for precision, errors in (("fp16", [0, 1e-4, 3e-4, 2e-4]), ("int8", [0, 0.05, 0.01, 0.02]))
        for i, error in enumerate(errors)
    ]
    drawn = svg(inside.strays_over_depth(pd.DataFrame(rows)))
    assert "blocks.2" in drawn
    assert "blocks.1" in drawn
    assert ">blocks.3<" not in drawn
