"""Stages wait for their upstream, and those that must be alone for everything else."""

from pipelines.dvc_graph import StageNode
from pipelines.order import start_order


def test_nothing_can_run_beside_a_stage_that_is_alone() -> None:
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
    found: set[str] = set()
    edge = before[address]
    while edge:
        found |= edge
        edge = set().union(*(before[name] for name in edge)) - found
    return found


def test_a_graph_without_lone_stages_keeps_its_own_order() -> None:
    nodes = [StageNode("a"), StageNode("b", ("a",)), StageNode("c", ("a",))]

    assert start_order(nodes) == {"a": set(), "b": {"a"}, "c": {"a"}}
