"""Submitting tasks as slots come free."""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from queue import SimpleQueue
from typing import Any

from prefect.futures import PrefectFuture


def as_they_end(
    before: Mapping[str, Collection[str]],
    slots: Callable[[], int],
    submit: Callable[[str], PrefectFuture[Any] | None],
) -> Iterator[tuple[str, PrefectFuture[Any] | None]]:
    """Submit each name once all names `before` it have ended, at most `slots()` at a time; yield each that ends.

    A task is submitted only when it can start: one that waits inside the pool would hold a slot, and its parameters
    and future, and enough of them would leave none for what they wait for. Those that may start do so in the order of
    `before`. `submit` returns None for what shall not run after all; it has ended then. The cost is linear.
    """
    order = {name: number for number, name in enumerate(before)}
    names = list(before)
    left = {name: len(earlier) for name, earlier in before.items()}
    behind: dict[str, list[str]] = {name: [] for name in before}
    for name, earlier in before.items():
        for one in earlier:
            behind[one].append(name)
    ready = [order[name] for name, count in left.items() if not count]
    heapq.heapify(ready)
    running: dict[str, PrefectFuture[Any]] = {}
    ended: SimpleQueue[str] = SimpleQueue()

    def note_end(name: str, _: object) -> None:
        ended.put(name)

    while ready or running:
        if ready and len(running) < max(1, slots()):
            name = names[heapq.heappop(ready)]
            future = submit(name)
            if future is not None:
                running[name] = future
                future.add_done_callback(partial(note_end, name))
                continue
        elif running:
            name = ended.get()
            future = running.pop(name)
        yield name, future
        # A result that nobody holds on to need not be made again by Dask when it loses the worker that has it.
        future = None
        for later in behind.pop(name):
            left[later] -= 1
            if not left[later]:
                heapq.heappush(ready, order[later])
