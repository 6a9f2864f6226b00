"""The progress bar of all long work, with rate and time left."""

import sys

from tqdm import tqdm


def progress(*, total: int, name: str, unit: str, done: int = 0, shown: bool = True) -> tqdm:
    """A bar over `total` units, redrawn often on a terminal and rarely in a log."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=name,
        unit=f" {unit}",
        mininterval=0.2 if on_terminal else 10,
        dynamic_ncols=on_terminal,
        smoothing=0.1,
        disable=not shown,
    )
