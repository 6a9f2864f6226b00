"""The students of the sweep `sensitivity`, what they gain over their twins, and what a setting loses to the best."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.study.students import gains, teacher_widths
from rsd.distillers.rsd import RSDOptions

CHOSEN_ON = ("fashion/cnn-mlp", "fashion/vit-cnn")
"""Settings are chosen on these pairs, by validation, and tried on the others."""
BATCH = 128
"""Of conf/recipe/fashion_student.yaml."""
SETTINGS = ("weight", "kappa", "gamma", "reference_width")
"""What a user chooses."""
CONTEXT = ("pair", "width", "batch")
"""What a user has."""
PUBLISHED_WIDTH = 768
DEFAULTS = RSDOptions()
PROPOSED = (DEFAULTS.weight, DEFAULTS.kappa)
"""The weight and kappa that the page proposes."""


class Rule(NamedTuple):
    """How the weight of the sums follows from a teacher's width D, relative to that at `PUBLISHED_WIDTH`."""

    name: str
    scale: Callable[[float], float]


RULES = (
    Rule("the sums as they are", lambda width: 1.0),
    Rule("by the root of D", lambda width: (PUBLISHED_WIDTH / width) ** 0.5),
    Rule("by D", lambda width: PUBLISHED_WIDTH / width),
)


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


def grid(found: pd.DataFrame) -> pd.DataFrame:
    """The students over weight and kappa, with everything else as usual, where several of each were tried."""
    plain = found[
        _is_default(found, "gamma")
        & _is_default(found, "reference_width")
        & _usual_width(found)
        & (found.batch == BATCH)
    ]
    # What was tried with one value of the other alone is not of the grid.
    weights_of = plain.groupby(["pair", "kappa"]).weight.transform("nunique")
    return plain[(plain.groupby(["pair", "weight"]).kappa.transform("nunique") > 1) & (weights_of > 1)]


def weights(found: pd.DataFrame) -> pd.DataFrame:
    """The students of `CHOSEN_ON` whose weight alone leaves the defaults, in every context that has several."""
    plain = found[found.pair.isin(CHOSEN_ON)]
    for name in ("kappa", "gamma", "reference_width"):
        plain = plain[_is_default(plain, name)]
    return plain[plain.groupby([*CONTEXT]).weight.transform("nunique") > 1]


def setting_losses(found: pd.DataFrame, weight: float, kappa: float) -> pd.DataFrame:
    """What a setting of the grid loses on validation to the best one, in points, by pair and seed of `CHOSEN_ON`."""
    lost = []
    part = grid(found)
    for pair, some in part[part.pair.isin(CHOSEN_ON)].groupby("pair", sort=False):
        table = some.pivot_table(index="seed", columns=["weight", "kappa"], values="validation_gain")
        loss = _cross_fitted(table.to_numpy(float), table[weight, kappa].to_numpy(float))
        lost.append(pd.DataFrame({"pair": pair, "seed": table.index, "loss": loss}))
    return pd.concat(lost, ignore_index=True)


def rule_losses(found: pd.DataFrame, rule: Rule, constant: float) -> pd.DataFrame:
    """What a rule for the weight loses on validation to the best weight, in points, by context and seed.

    The rule's own weight lies between those that were tried, where the gain is taken from a straight line over the
    logarithm of the weight.
    """
    lost = []
    for _, part in weights(found).groupby([*CONTEXT]):
        table = part.pivot_table(index="seed", columns="weight", values="validation_gain")
        wanted = np.log(constant * rule.scale(part.width.iloc[0]))
        own = [np.interp(wanted, np.log(table.columns.to_numpy(float)), row) for row in table.to_numpy(float)]
        context = part[[*CONTEXT]].iloc[0].to_dict()
        lost.append(
            pd.DataFrame({**context, "seed": table.index, "loss": _cross_fitted(table.to_numpy(float), np.array(own))})
        )
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
    part = grid(found)
    for pair, some in part[~part.pair.isin(CHOSEN_ON)].groupby("pair", sort=False):
        settings = ["weight", "kappa"]
        means = some.groupby(settings)[["validation_top1"]].mean()
        best_weight, best_kappa = means.reset_index().nlargest(1, "validation_top1")[settings].to_numpy()[0]
        test = some.pivot_table(index="seed", columns=settings, values="test_top1")
        best, own = test[best_weight, best_kappa], test[weight, kappa]
        head = {"pair": pair, "seed": test.index, "best_weight": best_weight, "best_kappa": best_kappa}
        lost.append(pd.DataFrame({**head, "best": best, "own": own, "loss": best - own}))
    return pd.concat(lost, ignore_index=True)


def _is_default(found: pd.DataFrame, name: str) -> pd.Series:
    default = getattr(DEFAULTS, name)
    return found[name].isna() if default is None else found[name] == default


def _usual_width(found: pd.DataFrame) -> pd.Series:
    return found.width == teacher_widths(found)
