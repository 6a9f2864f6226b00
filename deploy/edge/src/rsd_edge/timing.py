"""Times of several ways to run a model, taken in short turns, so that a slow phase of the device hits all alike."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from rsd_edge.records import MAX_THREADS

K = TypeVar("K")
TURNS = 11
TURN_INFERENCES, TURN_SECONDS = 50, 0.04
"""A turn ends with the first of the two, and holds one inference at least."""
LONG = 0.2
"""Seconds of an inference that cold caches hardly change."""
LONGEST = 8.0
"""Seconds for all turns together, but for the last one."""
HOPELESS = 1.5
"""A way that was above this factor of the best one in every round gets no more turns after `MIN_TURNS`."""
MIN_TURNS = 3
UNSTABLE = 0.25
CPUS = Path("/sys/devices/system/cpu")


def in_turns(
    ways: Mapping[K, Callable[[], float]],
    *,
    seconds: float = LONGEST,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, list[float]]:
    """The time of each turn of each way, in seconds; empty for a way whose turn never came.

    Args:
        ways: each takes a turn, such as `turn` in a process of its own, and gives its time.
        seconds: for all turns together, but for the last one.
        clock: for tests.
    """
    end, turns = clock() + seconds, {way: list[float]() for way in ways}
    racing = list(ways)
    for number in range(TURNS if ways else 0):
        first = number % len(racing)
        for way in racing[first:] + racing[:first]:
            if clock() >= end and any(turns.values()):
                return turns
            turns[way].append(ways[way]())
        best = [min(round_) for round_ in zip(*(turns[way] for way in racing), strict=True)]
        if number + 1 >= MIN_TURNS:
            racing = [way for way in racing if any(map(_is_near, turns[way], best))]
    return turns


def turn(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The median time of a few inferences. The first does not count, because caches are cold, unless it is long."""
    start = clock()
    run()
    before = clock()
    times = [before - start] if before - start > LONG else []
    start = before
    while len(times) < TURN_INFERENCES and (not times or before - start < TURN_SECONDS):
        run()
        after = clock()
        times.append(after - before)
        before = after
    return median(times)


def _is_near(time_: float, best: float) -> bool:
    return time_ <= HOPELESS * best


def spread(turns: list[float]) -> float:
    """The distance of the quartiles of the turns, as a share of their median."""
    low, middle, high = np.percentile(turns, (25, 50, 75))
    return float((high - low) / middle) if middle else 0.0


def is_unstable(turns: Iterable[list[float]]) -> bool:
    """Whether none of the ways that had the most turns gave nearly the same median in each."""
    lists = list(turns)
    most = max(map(len, lists))
    return all(spread(each) > UNSTABLE for each in lists if len(each) == most)


def thread_counts() -> list[int]:
    """1, 2 and all physical cores that this process may use; no count twice or above these."""
    cores = min(physical_cores(), MAX_THREADS)
    return sorted({1, min(2, cores), cores})


def physical_cores() -> int:
    """Of the processors that this process may use; two that share a core count once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        try:
            cores.add((CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:  # a container without it
            cores.add(str(cpu))
    return max(1, len(cores))
