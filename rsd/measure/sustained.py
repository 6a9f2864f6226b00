"""A model under sustained load, which shows the effect of heat, clock and other programs."""

import time
from collections.abc import Callable

from rsd.measure.latency import Conditions, Infer, conditions, statistics, timed

WINDOWS = 60


class Window(Conditions):
    """A sixtieth of the time: its end in seconds, its figures, and the conditions then."""

    seconds: float
    samples: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None


def sustained(
    infer: Infer, seconds: float, *, progress: Callable[[float], object] = lambda _: None
) -> tuple[list[Window], list[list[int]]]:
    """Call `infer` without a pause and without a warm-up, which would hide the drift.

    Returns:
        60 windows of equal length, each with its statistics and the machine's conditions; and the nanoseconds of every
        call, window by window.
    """
    windows: list[Window] = []
    samples: list[list[int]] = []
    start = time.monotonic()
    for _ in range(WINDOWS):
        nanoseconds = timed(infer, seconds / WINDOWS, 1)
        now = time.monotonic() - start
        figures = statistics([nanoseconds], 1)
        windows.append(
            {
                "seconds": round(now, 3),
                "samples": figures["samples"],
                "mean_ms": figures["mean_ms"],
                "p50_ms": figures["p50_ms"],
                "p90_ms": figures["p90_ms"],
                "p99_ms": figures["p99_ms"],
                **conditions(),
            }
        )
        samples.append(nanoseconds)
        progress(seconds / WINDOWS)
    return windows, samples
