"""What two runs of one project have in common."""

from pathlib import Path
from typing import Any

from rsd.machine.yaml_file import read_yaml


def lock_entries(root: Path) -> dict[str, Any]:
    """The entries of dvc.lock by address, without the stages marked as measured: two equal runs have equal ones."""
    graph = read_yaml(root / "dvc.yaml")["stages"]
    measured = {name for name, stage in graph.items() if stage.get("meta", {}).get("measured")}
    entries = read_yaml(root / "dvc.lock")["stages"]
    return {address: entry for address, entry in entries.items() if address.partition("@")[0] not in measured}
