"""The students of a sweep over the pairs of conf/pair/fashion, and what they gain over their twins."""

from pathlib import Path
from typing import Any

import pandas as pd

from rsd.report.table import method_name

VARIANTS = {
    "method.rsd.space=logits": "RSD on logits",
    "method.rsd.kappa=0": "RSD, invariance only",
    "method.rsd.aad=none": "RSD without AAD",
    "method.ofa.loss=rsd": "OFA with RSD's losses",
}
"""What a cell sets for its own method, and how the tables call that."""
MAIN = ("KD", "OFA", "RSD")
"""On all pairs."""
SHARE, EPOCHS = "override.data.train_share", "override.recipe.epochs"
CHANNELS = "override.teacher.args.channels"
ALL_IMAGES = 57_000
"""Of Fashion-MNIST's training split, less those of validation."""
USUAL_IMAGES, USUAL_EPOCHS = 11_400, 15
"""Of conf/data/fashion_small.yaml and conf/recipe/fashion_student.yaml."""
WIDTHS = {"cnn": 256, "vit": 128, "mlp": 128}
"""Of the embeddings of the teachers of conf/pair/fashion."""
TWIN = ["pair", "width", "images", "epochs", "seed"]
"""What a student and its scratch twin have in common."""


def read(file: Path) -> pd.DataFrame:
    """A sweep's students.csv; settings stay as they are spelled."""
    settings = [name for name in map(str, pd.read_csv(file, nrows=0)) if name.startswith("method.")]
    return pd.read_csv(file, dtype=dict.fromkeys(settings, str))


def students(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per student from those of a sweep: its twin's columns, method in the tables' words, figures."""
    rows = rows.reindex(columns=[*rows, *(name for name in (SHARE, EPOCHS) if name not in rows)])
    found = rows.assign(
        width=teacher_widths(rows),
        method=[_called(row) for row in rows.to_dict("records")],
        images=(ALL_IMAGES * pd.to_numeric(rows[SHARE])).fillna(USUAL_IMAGES).round().astype(int),
        epochs=pd.to_numeric(rows[EPOCHS]).fillna(USUAL_EPOCHS).astype(int),
    )
    figures = [name for name in map(str, found) if name == "validation_top1" or name.startswith(("test_", "teacher_"))]
    # The twins of a pair are in each of its cells.
    return found[[*TWIN, "method", *figures, "parameters"]].drop_duplicates([*TWIN, "method"], ignore_index=True)


def teacher_widths(rows: pd.DataFrame) -> list[int]:
    """Of the teacher's embedding: its last stage's channels, where a cell sets them."""
    told = rows[CHANNELS].fillna("") if CHANNELS in rows else [""] * len(rows)
    return [
        int(own.strip("[]").split(",")[-1]) if own else width
        for own, width in zip(told, usual_widths(rows.pair), strict=True)
    ]


def usual_widths(pairs: pd.Series) -> list[int]:
    """Of the teachers' embeddings, where a cell does not set them."""
    return [WIDTHS[pair.rpartition("/")[2].split("-")[0]] for pair in pairs]


def _called(row: dict[Any, Any]) -> str:
    own = [
        name for setting, name in VARIANTS.items()
        if setting.split(".")[1] == row["method"] and str(row.get(setting.split("=")[0], "")) == setting.split("=")[1]
    ]  # fmt: skip
    return own[0] if own else method_name(row["method"])


def usual(found: pd.DataFrame) -> pd.DataFrame:
    """The students of the main comparison: a fifth of the images, 15 epochs."""
    own = found.width == usual_widths(found.pair)
    return found[own & (found.images == USUAL_IMAGES) & (found.epochs == USUAL_EPOCHS)]


def same_steps(found: pd.DataFrame) -> pd.DataFrame:
    """The students of the pair with several sizes of training set, in as many steps each."""
    own = found.width == usual_widths(found.pair)
    some = found[own & (found.images * found.epochs == USUAL_IMAGES * USUAL_EPOCHS)]
    sizes = some.groupby(["pair", "method"]).images.transform("nunique")
    return some[sizes > 1]


def longer(found: pd.DataFrame) -> pd.DataFrame:
    """The students of the pair that was also trained longer, with those that were not."""
    some = found[(found.images == USUAL_IMAGES) & (found.width == usual_widths(found.pair))]
    lengths = some.groupby(["pair", "method"]).epochs.transform("nunique")
    return some[lengths > 1]


def gains(found: pd.DataFrame, figure: str = "test_top1") -> pd.DataFrame:
    """The students that a teacher taught, with `gain` over the scratch twin, whose only difference is the teacher."""
    twins = found[found.method == "scratch"].set_index(TWIN)[figure]
    taught = found[found.method != "scratch"]
    return taught.assign(
        gain=taught[figure].to_numpy() - twins.reindex(pd.MultiIndex.from_frame(taught[TWIN])).to_numpy()
    )


def leads(found: pd.DataFrame) -> pd.DataFrame:
    """By pair and method of the main comparison: mean gain, and the teacher's `lead` over the scratch twins."""
    main = usual(found)
    scratch = main[main.method == "scratch"].groupby("pair").test_top1.mean()
    taught = gains(main[main.method.isin(["scratch", *MAIN])])
    table = taught.groupby(["pair", "method"], sort=False).agg(gain=("gain", "mean"), teacher=("teacher_top1", "first"))
    return table.assign(lead=table.teacher - scratch.reindex(table.index.get_level_values("pair")).to_numpy())
