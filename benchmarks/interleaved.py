"""Timing two ways of doing one thing on a machine that is not quiet: turn by turn, and ratios within a turn."""

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from benchmarks.marked import table


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Seconds of each run (columns) in each round (rows).

    In a round every run has one turn, so that what slows the machine for a while slows all of them; the order
    rotates from round to round, so that none always comes after the same one. `clock` gives seconds:
    `time.process_time` counts this process's own work, whatever else the machine does meanwhile.
    """
    names = list(runs)
    rows = []
    for turn in range(-warmup, rounds):
        row = {}
        for name in np.roll(names, turn):
            start = clock()
            runs[name]()
            row[name] = clock() - start
        if turn >= 0:
            rows.append(row)
    return pd.DataFrame(rows, columns=names)


def spread(values: pd.Series, digits: int = 3) -> str:
    """The median with its quartiles, as "1.23 (1.20 to 1.31)"."""
    low, middle, high = (f"{value:#.{digits}g}".rstrip(".") for value in np.percentile(values, [25, 50, 75]))
    return f"{middle} ({low} to {high})"


def markdown(rows: list[dict[str, str]]) -> str:
    """A Markdown table; the keys of the first row are its head."""
    head = list(rows[0])
    return table([head, *([row[name] for name in head] for row in rows)])


def print_rows(rows: Iterable[dict[str, str]]) -> None:
    """A Markdown table, printed row by row, so that an interrupted benchmark keeps its rows."""
    for number, row in enumerate(rows):
        lines = markdown([row]).splitlines()
        print("\n".join(lines[2:] if number else lines), flush=True)
