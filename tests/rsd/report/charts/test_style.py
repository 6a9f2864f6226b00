import re
from pathlib import Path

import pandas as pd

from rsd.report.charts import style, training


def test_every_method_has_its_own_colour() -> None:
    methods = [*style.METHOD_COLOURS, "rsd+kd", "rsd+dkd", "rsd+kd+crd", "a method of tomorrow"]
    assert len({style.colour(method) for method in methods}) == len(methods)
    assert all(re.fullmatch("#[0-9a-f]{6}", style.colour(method)) for method in methods)


def test_charts_hold_no_colour_of_the_page(out: Path) -> None:
    frame = pd.read_csv(out / "evaluate" / "curves.csv")
    theme = style.theme(ink="var(--ink)", muted="var(--muted)", line="var(--line)")
    assert theme["background"] is None
    assert "background" not in training.learning_curve(frame, "loss").to_dict(context={"pre_transform": False})
