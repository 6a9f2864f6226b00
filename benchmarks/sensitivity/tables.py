"""The tables of docs/sensitivity.md, in Markdown."""

import pandas as pd

from benchmarks.marked import table
from benchmarks.sensitivity import students
from benchmarks.study.tables import bounds, pair_name
from rsd.report.interval import interval


def tables(frame: pd.DataFrame) -> dict[str, str]:
    """The parts of the page, by the name of their marks."""
    return {
        "grid": means_table(students.grid(frame), "kappa", "weight", sort=True),
        **{name: means_table(students.along(frame, name), name) for name in ("gamma", "batch")},
        "width": width_table(frame),
        "choice": choice_table(frame),
        "others": held_out_table(frame),
    }


def means_table(part: pd.DataFrame, column: str, *more: str, sort: bool = False) -> str:
    """Mean gain on validation: a row per pair and value of `more`, a column per value of `column`."""
    values = sorted(part[column].unique())
    lines = [["teacher -> student", *more, *(f"{'D' if column == 'width' else column} {value:,g}" for value in values)]]
    for (pair, *others), group in part.groupby(["pair", *more], sort=sort):
        means = group.groupby(column).validation_gain.mean()
        cells = [f"{means[value]:+.2f}" if value in means else "" for value in values]
        lines.append([pair_name(str(pair)), *(one if isinstance(one, str) else f"{one:g}" for one in others), *cells])
    return table(lines)


def width_table(frame: pd.DataFrame) -> str:
    """Mean gain on validation for teachers of several widths, with the sums as they are and width-free."""
    plain = students.along(frame, "width").assign(scaling="the sums as they are")
    width = students.PUBLISHED_WIDTH
    own = frame[frame.reference_width == width].assign(scaling=f"reference_width {width}")
    return means_table(pd.concat([plain, own[own.pair.isin(plain.pair)]]), "width", "scaling")


def choice_table(frame: pd.DataFrame) -> str:
    """Mean loss of each weight and kappa against the best of the grid, the least first."""
    settings = students.grid(frame)[students.WEIGHT_AND_KAPPA].drop_duplicates()
    losses = {(weight, kappa): students.setting_losses(frame, weight, kappa) for weight, kappa in settings.to_numpy()}
    lines = [["weight", "kappa", *map(pair_name, students.CHOSEN_ON), "mean loss", "95 % interval"]]
    for weight, kappa in sorted(losses, key=lambda setting: losses[setting].loss.mean()):
        lost = losses[weight, kappa]
        each = [f"{lost[lost.pair == pair].loss.mean():+.2f}" for pair in students.CHOSEN_ON]
        whole = interval(lost.loss)
        lines.append([f"{weight:g}", f"{kappa:g}", *each, f"{whole.mean:+.2f}", bounds(whole)])
    return table(lines)


def held_out_table(frame: pd.DataFrame) -> str:
    """What each of `JUDGED` loses to the best setting of each held-out pair."""
    lost = {setting: students.held_out_losses(frame, *setting) for setting in students.JUDGED}
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
