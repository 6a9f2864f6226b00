"""When each task of a graph may start, and starting them as slots come free."""

import heapq
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from graphlib import TopologicalSorter
from queue import SimpleQueue
from typing import Any

import networkx
from prefect.futures import PrefectFuture

from pipelines.dvc_graph import StageNode, needs_graph
from pipelines.process_group import GRACE_SECONDS


def start_order(nodes: Sequence[StageNode]) -> dict[str, set[str]]:
    """For each address, the addresses that must have ended before it may start.

    A stage waits for its upstream. A stage that runs alone waits for everything except its descendants, which wait for
    it. So nothing is left that could run beside it.
    """
    graph = needs_graph(nodes)
    for node in reversed(nodes):
        if node.alone:
            # Two such stages are counted one after the other: by now the later one waits for the earlier one.
            others = set(graph) - networkx.descendants(graph, node.address) - {node.address}
            graph.add_edges_from((other, node.address) for other in others)
    return {node.address: set(graph.predecessors(node.address)) for node in nodes}


def as_they_end(
    before: Mapping[str, Collection[str]], slots: Callable[[], int], submit: Callable[[str], PrefectFuture[Any] | None]
) -> Iterator[tuple[str, PrefectFuture[Any] | None]]:
    """Submit each name once all names `before` it have ended, at most `slots()` at a time; yield each that ends.

    Names that may start do so in the order of `before`. Where `submit` returns None the task is not run and has ended.

    Prefect's own `wait_for` would submit all tasks at once. A task that waits holds a thread of the pool, its
    parameters and its future: few slots would be left to do work, and memory would grow with the count of tasks.
    """
    names = list(before)
    number = {name: at for at, name in enumerate(names)}
    graph = TopologicalSorter(before)
    graph.prepare()
    ready: list[int] = []
    running: dict[str, PrefectFuture[Any]] = {}
    ended: SimpleQueue[str] = SimpleQueue()
    while graph.is_active():
        for name in graph.get_ready():
            heapq.heappush(ready, number[name])
        if ready and len(running) < max(1, slots()):
            name = names[heapq.heappop(ready)]
            future = submit(name)
            if future is not None:
                running[name] = future
                future.add_done_callback(lambda _, name=name: ended.put(name))  # type: ignore[misc]
                continue
        else:
            name = ended.get()
            future = running.pop(name)
        yield name, future
        future = None  # Dask recomputes the result of a lost worker only while somebody holds its future
        graph.done(name)


@contextmanager
def stopped_with_the_flow(stop: threading.Event, running: Mapping[str, PrefectFuture[Any]]) -> Iterator[None]:
    """Set `stop` and wait for the tasks if the block is left early, by a signal, too: no task may outlive its flow."""
    try:
        yield
    except BaseException:
        stop.set()
        for future in running.values():
            future.wait(timeout=2 * GRACE_SECONDS)
        raise
