"""The tables and pictures of docs/sensitivity.md, from what the sweep `sensitivity` found.

    make sensitivity    # python -m pipelines.sweep sensitivity, then this; again: what is missing

Everything is judged on validation; no test image is read. Writes docs/sensitivity/students.csv, a row per student, and
from it the tables that stand between marks in docs/sensitivity.md; pictures go beside it.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from benchmarks.marked import put
from benchmarks.study.charts import save
from benchmarks.study.students import read, teacher_widths, usual_widths
from benchmarks.study.tables import bounds, markdown, pair_name
from rsd.distillers.rsd import RSDOptions
from rsd.errors import UserError
from rsd.files import written_aside
from rsd.report.charts.style import METHOD_COLOURS, NEGATIVE, POSITIVE, Figure
from rsd.report.interval import interval

NAME = "sensitivity"
FOUND, PAGE, FOLDER = Path("out/sweeps") / NAME / "students.csv", Path("docs/sensitivity.md"), Path("docs/sensitivity")
CHOSEN_ON = ("fashion/cnn-mlp", "fashion/vit-cnn")
"""Settings are chosen on these pairs and tried on the others."""
BATCH = 128
"""Of conf/recipe/fashion_student.yaml."""
SETTINGS = ("weight", "kappa", "gamma", "reference_width")
CONTEXT = ["pair", "width", "batch"]
"""What a user has; the settings are what a user chooses."""
PUBLISHED_WIDTH = 768
DEFAULTS = RSDOptions()


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
    """One row per student: its context, settings, seed, validation_top1, and gain over its scratch twin."""

    def setting(name: str, default: float | None) -> pd.Series:
        told = rows[name] if name in rows else pd.Series(index=rows.index, dtype=float)
        return pd.to_numeric(told, errors="coerce").fillna(np.nan if default is None else default)

    found = pd.DataFrame(
        {
            "pair": rows.pair,
            "width": teacher_widths(rows),
            "batch": setting("override.recipe.batch_size", BATCH).astype(int),
            **{name: setting(f"method.rsd.{name}", getattr(DEFAULTS, name)) for name in SETTINGS},
            "method": rows.method,
            "seed": rows.seed,
            "validation_top1": rows.validation_top1,
        }
    )
    key = [*CONTEXT, "seed"]
    twins = found[found.method == "scratch"].drop_duplicates(key).set_index(key).validation_top1
    own = found[found.method == "rsd"].drop(columns="method").drop_duplicates([*key, *SETTINGS], ignore_index=True)
    return own.assign(
        gain=own.validation_top1.to_numpy() - twins.reindex(pd.MultiIndex.from_frame(own[key])).to_numpy()
    )


def along(found: pd.DataFrame, column: str) -> pd.DataFrame:
    """The students of the usual contexts that leave the defaults in one setting or context alone."""
    plain = pd.Series(True, index=found.index)
    for name in SETTINGS:
        default = getattr(DEFAULTS, name)
        if name != column:
            plain &= found[name].isna() if default is None else found[name] == default
    plain &= (found.width == usual_widths(found.pair)) | (column == "width")
    plain &= (found.batch == BATCH) | (column == "batch")
    some = found[plain & found.pair.isin(CHOSEN_ON)]
    return some[some.groupby("pair")[column].transform("nunique") > 1]


def along_table(found: pd.DataFrame, column: str) -> str:
    """Mean gain over scratch on validation for each value of one setting."""
    part = along(found, column)
    values = sorted(part[column].unique())
    lines = [[column, *(f"{value:g}" for value in values)]]
    for pair, some in part.groupby("pair", sort=False):
        means = some.groupby(column).gain.mean()
        lines.append([pair_name(str(pair)), *(f"{means[value]:+.2f}" if value in means else "" for value in values)])
    return markdown(lines)


def weights(found: pd.DataFrame) -> pd.DataFrame:
    """The students whose weight alone leaves the defaults, in every context that has several weights."""
    plain = found[(found.kappa == DEFAULTS.kappa) & (found.gamma == DEFAULTS.gamma) & found.reference_width.isna()]
    return plain[plain.groupby(CONTEXT).weight.transform("nunique") > 1]


def losses(found: pd.DataFrame, rule: Rule, constant: float) -> pd.DataFrame:
    """What a rule loses against the best weight, in points, by context and seed.

    The best weight of a context is chosen by the mean of the other seeds, so that luck in the choice is not counted as
    skill; the rule's own weight lies between those that were tried, where the gain is taken from a straight line over
    the logarithm of the weight.
    """
    lost = []
    for _, part in weights(found).groupby(CONTEXT):
        table = part.pivot_table(index="seed", columns="weight", values="gain")
        tried, reached = table.columns.to_numpy(float), table.to_numpy(float)
        wanted = np.log(constant * rule.scale(part.width.iloc[0]))
        for row, seed in enumerate(table.index):
            best = np.delete(reached, row, axis=0).mean(axis=0).argmax()
            own = np.interp(wanted, np.log(tried), reached[row])
            lost.append({**part[CONTEXT].iloc[0].to_dict(), "seed": seed, "loss": reached[row, best] - own})
    return pd.DataFrame(lost)


def rules_table(found: pd.DataFrame, constants: tuple[float, ...] = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0)) -> str:
    """Mean loss of each rule and constant on the pairs that settings are chosen on, and on the others."""
    head = [
        "weight at D 768 follows",
        "constant",
        "mean loss, chosen on",
        "95 % interval",
        "other pairs",
        "95 % interval",
    ]
    lines = [head]
    for rule in RULES:
        for constant in constants:
            lost = losses(found, rule, constant)
            own = lost.pair.isin(CHOSEN_ON)
            cells = []
            for some in (lost[own], lost[~own]):
                whole = interval(some.loss)
                cells += [f"{whole.mean:.2f}", bounds(whole)]
            lines.append([rule.name, f"{constant:g}", *cells])
    return markdown(lines)


def tables(found: pd.DataFrame) -> dict[str, str]:
    """The parts of the page, by the name of their marks."""
    made = {name: along_table(found, name) for name in ("weight", "kappa", "gamma", "batch", "width")}
    return {**made, "rules": rules_table(found)}


def along_chart(found: pd.DataFrame) -> Figure:
    """Gain over scratch along every setting, a line per pair, a dot per seed."""
    panels = []
    for column in ("weight", "kappa", "gamma", "batch"):
        part = along(found, column).assign(pair=lambda rows: [pair_name(pair) for pair in rows.pair])
        kind = (
            alt.Scale(type="symlog", constant=1e-3)
            if column == "kappa"
            else alt.Scale(type="log", nice=False, padding=10)
        )
        ticks = alt.Axis(values=sorted(part[column].unique()), format="~g")
        base = alt.Chart(part[["pair", column, "gain"]]).encode(
            x=alt.X(f"{column}:Q", scale=kind, axis=ticks, title=column),
            color=alt.Color("pair:N", title=None, scale=alt.Scale(range=[POSITIVE, NEGATIVE])),
        )
        title = "gain on validation, points"
        lines = base.mark_line().encode(y=alt.Y("mean(gain):Q", title=title))
        panels.append((lines + base.mark_circle(size=35, opacity=1).encode(y=alt.Y("gain:Q", title=title))).properties(
            width=260, height=170
        ))  # fmt: skip
    return alt.vconcat(alt.hconcat(*panels[:2]), alt.hconcat(*panels[2:]))


def width_chart(found: pd.DataFrame) -> Figure:
    """Gain along the weight for teachers of several widths, by each rule: where the curves meet, the rule is right."""
    part = weights(found)
    part = part[(part.batch == BATCH) & (part.pair == CHOSEN_ON[0])]
    panels = []
    for rule in RULES:
        # The constant that gives a student's weight under this rule.
        shown = part.assign(constant=part.weight / part.width.map(rule.scale), width=part.width.astype(str))
        x = alt.X("constant:Q", scale=alt.Scale(type="log", nice=False, padding=10), title=f"weight, {rule.name}")
        scheme = alt.Scale(range=[METHOD_COLOURS["kd"], POSITIVE, NEGATIVE])
        colour = alt.Color("width:N", title="D", sort=sorted(shown.width.unique(), key=int), scale=scheme)
        lines = alt.Chart(shown[["constant", "width", "gain"]]).mark_line(point=True)
        y = alt.Y("mean(gain):Q", title="gain on validation, points")
        panels.append(lines.encode(x=x, y=y, color=colour).properties(width=210, height=190))
    return alt.hconcat(*panels)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not FOUND.is_file():
        raise UserError(
            f"expected the students of the sweep in {FOUND}, found none; run python -m pipelines.sweep {NAME}"
        )
    found = students(read(FOUND))
    FOLDER.mkdir(exist_ok=True)
    with written_aside(FOLDER / "students.csv") as aside:
        found.to_csv(aside, index=False, float_format="%.6g")
    put(PAGE, tables(found))
    save(along_chart(found), FOLDER / "settings.png")
    save(width_chart(found), FOLDER / "width.png")
    print(rules_table(found))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
