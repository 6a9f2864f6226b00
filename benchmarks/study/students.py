"""The students of a sweep over the pairs of conf/pair/fashion, and what they gain over their twins."""

from pathlib import Path
from typing import Any

import pandas as pd

from rsd.report.table import method_name

VARIANTS = {
    "method.rsd.space=logits": "RSD on logits",
    "method.rsd.kappa=0": "RSD, invariance only",
}
"""What a cell sets for its own method, and how the tables call that."""
MAIN = ("KD", "OFA", "RSD")
"""On all pairs."""
TWIN = ["pair", "seed"]
"""What a student and its scratch twin have in common."""


def read(file: Path) -> pd.DataFrame:
    """A sweep's students.csv; settings stay as they are spelled."""
    settings = [name for name in map(str, pd.read_csv(file, nrows=0)) if name.startswith("method.")]
    return pd.read_csv(file, dtype=dict.fromkeys(settings, str))


def students(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per student from those of a sweep: its twin's columns, method in the tables' words, figures."""
    found = rows.assign(method=[_called(row) for row in rows.to_dict("records")])
    figures = [name for name in map(str, found) if name == "validation_top1" or name.startswith(("test_", "teacher_"))]
    # The twins of a pair are in each of its cells.
    return found[[*TWIN, "method", *figures, "parameters"]].drop_duplicates([*TWIN, "method"], ignore_index=True)


def _called(row: dict[Any, Any]) -> str:
    own = [
        name for setting, name in VARIANTS.items()
        if setting.split(".")[1] == row["method"] and str(row.get(setting.split("=")[0], "")) == setting.split("=")[1]
    ]  # fmt: skip
    return own[0] if own else method_name(row["method"])


def gains(found: pd.DataFrame) -> pd.DataFrame:
    """The students that a teacher taught, with `gain` in test top-1 over the twin that differs by the teacher alone."""
    twins = found[found.method == "scratch"].set_index(TWIN).test_top1
    taught = found[found.method != "scratch"]
    return taught.assign(
        gain=taught.test_top1.to_numpy() - twins.reindex(pd.MultiIndex.from_frame(taught[TWIN])).to_numpy()
    )


def leads(found: pd.DataFrame) -> pd.DataFrame:
    """By pair and method of the main comparison: mean gain, and the teacher's `lead` over the scratch twins."""
    scratch = found[found.method == "scratch"].groupby("pair").test_top1.mean()
    taught = gains(found[found.method.isin(["scratch", *MAIN])])
    table = taught.groupby(["pair", "method"], sort=False).agg(gain=("gain", "mean"), teacher=("teacher_top1", "first"))
    return table.assign(lead=table.teacher - scratch.reindex(table.index.get_level_values("pair")).to_numpy())
