"""The tables of docs/sensitivity.md, in Markdown."""

import pandas as pd

from benchmarks.marked import table
from benchmarks.sensitivity.students import (
    CHOSEN_ON,
    JUDGED,
    PUBLISHED_WIDTH,
    WEIGHT_AND_KAPPA,
    along,
    grid,
    held_out_losses,
    setting_losses,
)
from benchmarks.study.tables import bounds, pair_name
from rsd.report.interval import interval


def tables(frame: pd.DataFrame) -> dict[str, str]:
    """The parts of the page, by the name of their marks."""
    return {
        "grid": grid_table(frame),
        **{name: along_table(frame, name) for name in ("gamma", "batch")},
        "width": width_table(frame),
        "choice": choice_table(frame),
        "others": held_out_table(frame),
    }


def grid_table(frame: pd.DataFrame) -> str:
    """Mean gain on validation for each weight and kappa."""
    part = grid(frame)
    kappas = sorted(part.kappa.unique())
    lines = [["teacher -> student", "weight", *(f"kappa {kappa:g}" for kappa in kappas)]]
    for (pair, weight), group in part.groupby(["pair", "weight"]):
        means = group.groupby("kappa").validation_gain.mean()
        lines.append([pair_name(str(pair)), f"{weight:g}", *(f"{means[kappa]:+.2f}" for kappa in kappas)])
    return table(lines)


def along_table(frame: pd.DataFrame, column: str) -> str:
    """Mean gain on validation for each value of one setting."""
    part = along(frame, column)
    values = sorted(part[column].unique())
    lines = [["teacher -> student", *(f"{column} {value:g}" for value in values)]]
    for pair, group in part.groupby("pair", sort=False):
        means = group.groupby(column).validation_gain.mean()
        lines.append([pair_name(str(pair)), *(f"{means[value]:+.2f}" if value in means else "" for value in values)])
    return table(lines)


def width_table(frame: pd.DataFrame) -> str:
    """Mean gain on validation for teachers of several widths, with the sums as they are and width-free."""
    plain = along(frame, "width").assign(scaling="the sums as they are")
    own = frame[frame.reference_width == PUBLISHED_WIDTH].assign(scaling=f"reference_width {PUBLISHED_WIDTH}")
    part = pd.concat([plain, own[own.pair.isin(plain.pair)]])
    widths = sorted(part.width.unique())
    lines = [["teacher -> student", "scaling", *(f"D {width:,}" for width in widths)]]
    for (pair, scaling), group in part.groupby(["pair", "scaling"], sort=False):
        means = group.groupby("width").validation_gain.mean()
        cells = [f"{means[width]:+.2f}" if width in means else "" for width in widths]
        lines.append([pair_name(str(pair)), str(scaling), *cells])
    return table(lines)


def choice_table(frame: pd.DataFrame) -> str:
    """Mean loss of each weight and kappa against the best of the grid, the least first."""
    settings = grid(frame)[WEIGHT_AND_KAPPA].drop_duplicates()
    losses = {(weight, kappa): setting_losses(frame, weight, kappa) for weight, kappa in settings.to_numpy()}
    lines = [["weight", "kappa", *map(pair_name, CHOSEN_ON), "mean loss", "95 % interval"]]
    for weight, kappa in sorted(losses, key=lambda setting: losses[setting].loss.mean()):
        lost = losses[weight, kappa]
        each = [f"{lost[lost.pair == pair].loss.mean():+.2f}" for pair in CHOSEN_ON]
        whole = interval(lost.loss)
        lines.append([f"{weight:g}", f"{kappa:g}", *each, f"{whole.mean:+.2f}", bounds(whole)])
    return table(lines)


def held_out_table(frame: pd.DataFrame) -> str:
    """What each of `JUDGED` loses to the best setting of each held-out pair."""
    lost = {setting: held_out_losses(frame, *setting) for setting in JUDGED}
    names = [f"weight {weight:g}, kappa {kappa:g}" for weight, kappa in lost]
    head = ["teacher -> student", "best on validation", "its test top-1"]
    lines = [[*head, *(cell for name in names for cell in (name, "it loses"))]]
    first = next(iter(lost.values()))
    for pair, group in first.groupby("pair", sort=False):
        cells = [pair_name(str(pair)), f"weight {group.best_weight.iloc[0]:g}, kappa {group.best_kappa.iloc[0]:g}"]
        cells.append(f"{group.best.mean():.2f}")
        for one in lost.values():
            own = one[one.pair == pair]
            cells += [f"{own.own.mean():.2f}", f"{own.loss.mean():+.2f}"]
        lines.append(cells)
    means = [interval(one.loss) for one in lost.values()]
    lines.append(["mean loss", "", "", *(cell for mean in means for cell in ("", f"**{mean.mean:+.2f}**"))])
    what = f"95 % interval, {means[0].seeds} pairs x seeds"
    lines.append([what, "", "", *(cell for mean in means for cell in ("", bounds(mean)))])
    by_pair = [interval(one.groupby("pair").loss.mean()) for one in lost.values()]
    what = f"95 % interval, {by_pair[0].seeds} pairs"
    lines.append([what, "", "", *(cell for mean in by_pair for cell in ("", bounds(mean)))])
    return table(lines)
