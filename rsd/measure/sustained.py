"""A model under load that does not end: heat, clock and neighbours show."""

import time
from collections.abc import Callable
from typing import Any

from rsd.measure.latency import SAMPLES_NEEDED, Infer, conditions, statistics, timed

WINDOWS = 60


def sustained(
    infer: Infer, seconds: float, *, progress: Callable[[float], object] = lambda _: None
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Call `infer` without a pause and without a warm-up, which would hide the drift.

    Returns:
        60 windows of equal length, each with its statistics and the machine's conditions; and the nanoseconds of every
        call, window by window.
    """
    windows, samples = [], []
    start = time.monotonic()
    for _ in range(WINDOWS):
        nanoseconds = timed(infer, seconds / WINDOWS, 1)
        now = time.monotonic() - start
        figures = statistics([nanoseconds], 1)
        summary = {key: figures[key] for key in ("samples", "mean_ms", *(f"p{q}_ms" for q in SAMPLES_NEEDED))}
        windows.append({"seconds": round(now, 3), **summary, **conditions()})
        samples.append(nanoseconds)
        progress(seconds / WINDOWS)
    return windows, samples
