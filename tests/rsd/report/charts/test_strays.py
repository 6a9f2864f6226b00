import pandas as pd

from rsd.report.charts.strays import strays_over_depth
from rsd.report.charts.style import svg


def test_the_part_that_strays_most_is_named():
    rows = [
        {"precision": precision, "depth": i / 3, "error": error, "value": f"v{i}", "part": f"blocks.{i}"}
        for precision, errors in (("fp16", [0, 1e-4, 3e-4, 2e-4]), ("int8", [0, 0.05, 0.01, 0.02]))
        for i, error in enumerate(errors)
    ]
    drawn = svg(strays_over_depth(pd.DataFrame(rows)))
    assert "blocks.2" in drawn
    assert "blocks.1" in drawn
    assert ">blocks.3<" not in drawn
