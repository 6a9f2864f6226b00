"""The students of the sweep `sensitivity`, what they gain over their twins, and what a setting loses to the best."""

import numpy as np
import pandas as pd

from benchmarks.study.students import gains, teacher_widths
from rsd.methods.rsd import RSDOptions

CHOSEN_ON = ("fashion/cnn-mlp", "fashion/vit-cnn")
"""Settings are chosen on these pairs, by validation, and tried on the others."""
BATCH = 128
"""Of conf/recipe/fashion_student.yaml."""
SETTINGS = ("weight", "kappa", "gamma", "reference_width")
"""What a user chooses."""
WEIGHT_AND_KAPPA = ["weight", "kappa"]
CONTEXT = ("pair", "width", "batch")
"""The context, which a user does not choose."""
PUBLISHED_WIDTH = 768
DEFAULTS = RSDOptions()
JUDGED = ((DEFAULTS.weight, DEFAULTS.kappa), (DEFAULTS.weight, 0.0))
"""The weights and kappas that are judged on the other pairs: the default, and what it is without the redundancy."""


def students(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per RSD student: its context, settings, seed, top-1 and gain over its twin on every split."""

    def setting(name: str, default: float | None) -> pd.Series:
        column = rows[name] if name in rows else pd.Series(index=rows.index, dtype=float)
        return pd.to_numeric(column, errors="coerce").fillna(np.nan if default is None else default)

    splits = [name for name in ("validation_top1", "test_top1") if name in rows]
    frame = pd.DataFrame(
        {
            "pair": rows.pair,
            "width": teacher_widths(rows),
            "batch": setting("override.recipe.batch_size", BATCH).astype(int),
            **{name: setting(f"method.rsd.{name}", getattr(DEFAULTS, name)) for name in SETTINGS},
            "method": rows.method,
            "seed": rows.seed,
            **{name: rows[name] for name in splits},
        }
    )
    twin = (*CONTEXT, "seed")
    of = {name: gains(frame.dropna(subset=[name]), twin, name).gain for name in splits}
    with_teacher = frame[frame.method != "scratch"].drop(columns="method")
    with_teacher = with_teacher.assign(**{name.replace("top1", "gain"): gain for name, gain in of.items()})
    return with_teacher.drop_duplicates([*twin, *SETTINGS], ignore_index=True)


def along(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The students of `CHOSEN_ON` that differ from the defaults and the usual context in one column only."""
    group = _differing(frame, column)
    group = group[group.pair.isin(CHOSEN_ON)]
    return group[group.groupby("pair")[column].transform("nunique") > 1]


def _differing(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The students that differ from the defaults and the usual context in these columns only."""
    alike = (frame.width == teacher_widths(frame)) | ("width" in columns)
    usual = {name: getattr(DEFAULTS, name) for name in SETTINGS} | {"batch": BATCH}
    for name, value in usual.items():
        if name not in columns:
            alike &= frame[name].isna() if value is None else frame[name] == value
    return frame[alike]


def grid(frame: pd.DataFrame) -> pd.DataFrame:
    """The students of `CHOSEN_ON` on the full grid of weights and kappas."""
    plain = _differing(frame, *WEIGHT_AND_KAPPA)
    plain = plain[plain.pair.isin(CHOSEN_ON)]
    weights = plain.groupby(["pair", "kappa"]).weight.transform("nunique")
    kappas = plain.groupby(["pair", "weight"]).kappa.transform("nunique")
    return plain[(weights > 1) & (kappas > 1)]


def setting_losses(frame: pd.DataFrame, weight: float, kappa: float) -> pd.DataFrame:
    """What a setting of the grid loses on validation to the best one, in points, by pair and seed of `CHOSEN_ON`."""
    losses = []
    for pair, group in grid(frame).groupby("pair", sort=False):
        table = group.pivot_table(index="seed", columns=WEIGHT_AND_KAPPA, values="validation_gain")
        loss = _cross_fitted(table.to_numpy(float), table[weight, kappa].to_numpy(float))
        losses.append(pd.DataFrame({"pair": pair, "seed": table.index, "loss": loss}))
    return pd.concat(losses, ignore_index=True)


def _cross_fitted(gains_of_settings: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[seeds, settings], [seeds] -> [seeds]: the gain of the best setting less one's own.

    The best is chosen by the mean of the other seeds, so that a lucky seed does not choose itself.
    """
    best = [np.delete(gains_of_settings, seed, axis=0).mean(axis=0).argmax() for seed in range(len(gains_of_settings))]
    return gains_of_settings[np.arange(len(gains_of_settings)), best] - own


def held_out_losses(frame: pd.DataFrame, weight: float, kappa: float) -> pd.DataFrame:
    """What a setting loses on the test split to the best setting of each held-out pair, in points, by seed.

    The best setting is chosen per pair, by the mean over its seeds on validation.

    Returns:
        Columns pair, seed, best_weight, best_kappa, best, own (top-1 on test) and loss.
    """
    losses = []
    part = _differing(frame, *WEIGHT_AND_KAPPA)
    for pair, group in part[~part.pair.isin(CHOSEN_ON)].groupby("pair", sort=False):
        means = group.groupby(WEIGHT_AND_KAPPA)[["validation_top1"]].mean()
        best_weight, best_kappa = means.reset_index().nlargest(1, "validation_top1")[WEIGHT_AND_KAPPA].to_numpy()[0]
        test = group.pivot_table(index="seed", columns=WEIGHT_AND_KAPPA, values="test_top1")
        best, own = test[best_weight, best_kappa], test[weight, kappa]
        head = {"pair": pair, "seed": test.index, "best_weight": best_weight, "best_kappa": best_kappa}
        losses.append(pd.DataFrame({**head, "best": best, "own": own, "loss": best - own}))
    return pd.concat(losses, ignore_index=True)
