"""Tasks start after what they need, and slots are kept full, never overfull."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pipelines.dvc_graph import StageNode
from pipelines.schedule import as_they_end, start_order


def at_once(order: list[str]) -> Any:
    """A submit whose tasks have ended before it returns."""

    def submit(name: str) -> Any:
        order.append(name)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    return submit


@pytest.mark.parametrize("seed", range(5))
def test_each_runs_once_after_its_needs_within_slots(seed: int) -> None:
    draw = random.Random(seed)
    names = [f"n{number}" for number in range(40)]
    before = {name: draw.sample(names[:at], k=min(at, draw.randrange(3))) for at, name in enumerate(names)}
    together = most = 0
    begun: list[str] = []
    ended: list[str] = []

    def work(name: str) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        begun.append(name)
        time.sleep(draw.random() / 1000)
        together -= 1

    with ThreadPoolExecutor(8) as threads:

        def submit(name: str) -> Any:
            return threads.submit(work, name)

        for name, _ in as_they_end(before, lambda: 3, submit):
            assert set(before[name]) <= {*ended}
            ended.append(name)

    assert sorted(ended) == sorted(begun) == sorted(names)
    assert 1 < most <= 3


def test_those_that_may_start_do_so_in_order() -> None:
    order: list[str] = []

    list(as_they_end({"a": [], "b": [], "c": ["a"], "d": []}, lambda: 1, at_once(order)))

    assert order == ["a", "b", "c", "d"]


def test_what_is_not_to_run_has_ended() -> None:
    before: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["b"]}

    assert [*as_they_end(before, lambda: 2, lambda name: None)] == [("a", None), ("b", None), ("c", None)]


class Counted(list[str]):
    """Counts how often its items are looked at."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        for item in super().__iter__():
            Counted.looks += 1
            yield item


def test_the_cost_is_linear_in_the_tasks() -> None:
    count, requests = 2_000, 0
    before = {"first": Counted(), **{str(number): Counted(["first"]) for number in range(count)}}

    def slots() -> int:
        nonlocal requests
        requests += 1
        return 4

    Counted.looks = 0
    assert len([*as_they_end(before, slots, at_once([]))]) == count + 1
    assert Counted.looks <= 2 * count
    assert requests <= 3 * count


def test_nothing_runs_beside_a_lone_stage() -> None:
    nodes = [
        StageNode("a"),
        StageNode("b", ("a",)),
        StageNode("first", ("a",), alone=True),
        StageNode("second", ("a",), alone=True),
        StageNode("c", ("first",)),
        StageNode("d", ("second",)),
        StageNode("e"),
    ]
    before = start_order(nodes)

    order = {node.address: earlier(before, node.address) for node in nodes}
    assert all(address not in known for address, known in order.items())  # no cycle
    for node in nodes:
        assert before[node.address].issuperset(node.upstream)
        if node.alone:
            others = order.keys() - {node.address}
            assert all(other in order[node.address] or node.address in order[other] for other in others)
    assert "first" in order["second"]  # in the order of the graph


def earlier(before: dict[str, set[str]], address: str) -> set[str]:
    names: set[str] = set()
    edge = before[address]
    while edge:
        names |= edge
        edge = set().union(*(before[name] for name in edge)) - names
    return names


def test_a_graph_without_lone_stages_keeps_its_order() -> None:
    nodes = [StageNode("a"), StageNode("b", ("a",)), StageNode("c", ("a",))]

    assert start_order(nodes) == {"a": set(), "b": {"a"}, "c": {"a"}}
