"""Which stage may start when."""

from collections.abc import Sequence

from pipelines.dvc_graph import StageNode


def start_order(nodes: Sequence[StageNode]) -> dict[str, set[str]]:
    """For each address, the addresses that must have ended before it may start.

    Those are its upstream; for a stage that runs alone, everything but its descendants as well. Its
    descendants wait for it anyway, so nothing is left that could run beside it.
    """
    before = {node.address: set(node.upstream) for node in nodes}
    for node in reversed(nodes):
        if node.alone:
            # Counted anew for each: of two such stages the later now waits for the earlier.
            before[node.address] |= before.keys() - _descendants(before, node.address) - {node.address}
    return before


def _descendants(before: dict[str, set[str]], address: str) -> set[str]:
    found: set[str] = set()
    edge = {address}
    while edge:
        edge = {later for later, earlier in before.items() if earlier & edge} - found
        found |= edge
    return found
