"""The students of sweeps over the pairs of conf/pair/fashion, and what they gain over their twins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rsd.machine.errors import UserError
from rsd.machine.files import written_aside
from rsd.report.table import method_name

VARIANTS = {
    "method.rsd.space=logits": "RSD on logits",
    "method.rsd.kappa=0": "RSD, invariance only",
    "method.rsd.aad=none": "RSD without AAD",
    "method.ofa.loss=rsd": "OFA with RSD's losses",
}
"""A setting of a method, and the tables' name for a student that has it."""
MAIN = ("KD", "OFA", "RSD")
"""On all pairs."""
WIDTH_SETTINGS = ("override.teacher.args.channels", "override.teacher.args.embed_dim")
WIDTHS = {"cnn": 256, "vit": 128, "mlp": 128}
"""Embedding widths of the teachers in conf/pair/fashion."""
TWIN = ("pair", "seed")
"""What a student and its scratch twin have in common."""


def read_sweep(name: str) -> pd.DataFrame:
    """The students of a sweep, a row per student and cell; UserError if it has not run."""
    file = Path("out/sweeps") / name / "students.csv"
    if not file.is_file():
        raise UserError(
            f"expected the students of the sweep in {file}, found none; run python -m pipelines.sweep {name}"
        )
    return read(file)


def read(file: Path) -> pd.DataFrame:
    """A sweep's students.csv; settings stay as they are spelled."""
    settings = [name for name in map(str, pd.read_csv(file, nrows=0)) if name.startswith("method.")]
    return pd.read_csv(file, dtype=dict.fromkeys(settings, str))


def students(rows: pd.DataFrame, twin: Sequence[str] = TWIN) -> pd.DataFrame:
    """One row per student from those of a sweep: its twin's columns, method in the tables' words, figures."""
    frame = rows.assign(method=[_label(row) for row in rows.to_dict("records")])
    figures = [name for name in map(str, frame) if name == "validation_top1" or name.startswith(("test_", "teacher_"))]
    # The twins of a pair are in each of its cells.
    return frame[[*twin, "method", *figures, "parameters"]].drop_duplicates([*twin, "method"], ignore_index=True)


def _label(row: dict[Any, Any]) -> str:
    for setting, name in VARIANTS.items():
        key, value = setting.split("=")
        if key.split(".")[1] == row["method"] and str(row.get(key, "")) == value:
            return name
    return method_name(row["method"])


def through_file(frame: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Write the students with four digits to `file` and read them back, so that the page follows from the file."""
    file.parent.mkdir(exist_ok=True)
    with written_aside(file) as aside:
        frame.to_csv(aside, index=False, float_format="%.4f")
    return pd.read_csv(file)


def gains(frame: pd.DataFrame, twin: Sequence[str] = TWIN, figure: str = "test_top1") -> pd.DataFrame:
    """The distilled students, with their `gain` in one figure over the scratch twin of the same settings."""
    twins = frame[frame.method == "scratch"].drop_duplicates(twin).set_index([*twin])[figure]
    with_teacher = frame[frame.method != "scratch"]
    return with_teacher.assign(
        gain=with_teacher[figure].to_numpy() - twins.reindex(pd.MultiIndex.from_frame(with_teacher[[*twin]])).to_numpy()
    )


def teacher_widths(rows: pd.DataFrame) -> list[int]:
    """Of the teachers' embeddings: the last stage's channels or a transformer's width, where a cell sets them."""
    widths = pd.Series("", index=rows.index, dtype="string")
    for name in WIDTH_SETTINGS:
        if name in rows:
            widths = widths.mask(rows[name].notna(), rows[name].astype("string"))
    usual = [WIDTHS[pair.rpartition("/")[2].split("-")[0]] for pair in rows.pair]
    return [
        int(float(own.strip("[]").split(",")[-1])) if own else width for own, width in zip(widths, usual, strict=True)
    ]


def leads(frame: pd.DataFrame) -> pd.DataFrame:
    """By pair and method of the main comparison: mean gain, and the teacher's `lead` over the scratch twins."""
    scratch = frame[frame.method == "scratch"].groupby("pair").test_top1.mean()
    with_gain = gains(frame[frame.method.isin(["scratch", *MAIN])])
    table = with_gain.groupby(["pair", "method"], sort=False).agg(
        gain=("gain", "mean"), teacher=("teacher_top1", "first")
    )
    return table.assign(lead=table.teacher - scratch.reindex(table.index.get_level_values("pair")).to_numpy())
