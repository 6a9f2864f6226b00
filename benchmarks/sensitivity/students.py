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
"""What a user has."""
PUBLISHED_WIDTH = 768
DEFAULTS = RSDOptions()
JUDGED = ((DEFAULTS.weight, DEFAULTS.kappa), (DEFAULTS.weight, 0.0))
"""The weights and kappas that are judged on the other pairs: the default, and what it is without the redundancy."""


def students(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per RSD student: its context, settings, seed, top-1 and gain over its twin on every split."""

    def setting(name: str, default: float | None) -> pd.Series:
        told = rows[name] if name in rows else pd.Series(index=rows.index, dtype=float)
        return pd.to_numeric(told, errors="coerce").fillna(np.nan if default is None else default)

    splits = [name for name in ("validation_top1", "test_top1") if name in rows]
    found = pd.DataFrame(
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
    of = {name: gains(found.dropna(subset=[name]), twin, name).gain for name in splits}
    taught = found[found.method != "scratch"].drop(columns="method")
    taught = taught.assign(**{name.replace("top1", "gain"): gain for name, gain in of.items()})
    return taught.drop_duplicates([*twin, *SETTINGS], ignore_index=True)


def along(found: pd.DataFrame, column: str) -> pd.DataFrame:
    """The students of `CHOSEN_ON` that leave the defaults and the usual contexts in one column alone."""
    plain = pd.Series(True, index=found.index)
    for name in SETTINGS:
        if name != column:
            plain &= _is_default(found, name)
    plain &= _usual_width(found) | (column == "width")
    plain &= (found.batch == BATCH) | (column == "batch")
    some = found[plain & found.pair.isin(CHOSEN_ON)]
    return some[some.groupby("pair")[column].transform("nunique") > 1]


def settings(found: pd.DataFrame) -> pd.DataFrame:
    """The students that leave the defaults and the usual contexts in weight and kappa alone."""
    plain = _is_default(found, "gamma") & _is_default(found, "reference_width")
    return found[plain & _usual_width(found) & (found.batch == BATCH)]


def grid(found: pd.DataFrame) -> pd.DataFrame:
    """Those of `CHOSEN_ON` with the weights and kappas of which each was tried with each."""
    plain = settings(found)
    plain = plain[plain.pair.isin(CHOSEN_ON)]
    weights = plain.groupby(["pair", "kappa"]).weight.transform("nunique")
    kappas = plain.groupby(["pair", "weight"]).kappa.transform("nunique")
    return plain[(weights > 1) & (kappas > 1)]


def setting_losses(found: pd.DataFrame, weight: float, kappa: float) -> pd.DataFrame:
    """What a setting of the grid loses on validation to the best one, in points, by pair and seed of `CHOSEN_ON`."""
    lost = []
    for pair, some in grid(found).groupby("pair", sort=False):
        table = some.pivot_table(index="seed", columns=WEIGHT_AND_KAPPA, values="validation_gain")
        loss = _cross_fitted(table.to_numpy(float), table[weight, kappa].to_numpy(float))
        lost.append(pd.DataFrame({"pair": pair, "seed": table.index, "loss": loss}))
    return pd.concat(lost, ignore_index=True)


def _cross_fitted(tried: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[seeds, settings], [seeds] -> [seeds]: the gain of the best setting less one's own.

    The best is chosen by the mean of the other seeds, so that luck in the choice is not counted as skill.
    """
    best = [np.delete(tried, seed, axis=0).mean(axis=0).argmax() for seed in range(len(tried))]
    return tried[np.arange(len(tried)), best] - own


def held_out_losses(found: pd.DataFrame, weight: float, kappa: float) -> pd.DataFrame:
    """What a setting loses on **test** to the best one of each pair that it was not chosen on, in points, by seed.

    The best setting is chosen per pair, by the mean over its seeds on validation.

    Returns:
        Columns pair, seed, best_weight, best_kappa, best, own (top-1 on test) and loss.
    """
    lost = []
    part = settings(found)
    for pair, some in part[~part.pair.isin(CHOSEN_ON)].groupby("pair", sort=False):
        means = some.groupby(WEIGHT_AND_KAPPA)[["validation_top1"]].mean()
        best_weight, best_kappa = means.reset_index().nlargest(1, "validation_top1")[WEIGHT_AND_KAPPA].to_numpy()[0]
        test = some.pivot_table(index="seed", columns=WEIGHT_AND_KAPPA, values="test_top1")
        best, own = test[best_weight, best_kappa], test[weight, kappa]
        head = {"pair": pair, "seed": test.index, "best_weight": best_weight, "best_kappa": best_kappa}
        lost.append(pd.DataFrame({**head, "best": best, "own": own, "loss": best - own}))
    return pd.concat(lost, ignore_index=True)


def _is_default(found: pd.DataFrame, name: str) -> pd.Series:
    default = getattr(DEFAULTS, name)
    return found[name].isna() if default is None else found[name] == default


def _usual_width(found: pd.DataFrame) -> pd.Series:
    return found.width == teacher_widths(found)
