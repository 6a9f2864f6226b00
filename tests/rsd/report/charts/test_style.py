from pathlib import Path

import pandas as pd

from rsd.report.charts import style, training


def test_known_methods_have_colours_of_their_own() -> None:
    assert len(set(style.METHOD_COLOURS.values())) == len(style.METHOD_COLOURS)
    assert style.colour("a method of tomorrow") == style.NEUTRAL


def test_charts_hold_no_colour_of_the_page(out: Path) -> None:
    frame = pd.read_csv(out / "evaluate" / "curves.csv")
    theme = style.theme(ink="var(--ink)", muted="var(--muted)", line="var(--line)")
    assert theme["background"] is None
    assert "background" not in training.learning_curve(frame, "loss").to_dict(context={"pre_transform": False})
