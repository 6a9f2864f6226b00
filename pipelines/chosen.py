"""What params.yaml chooses, and its short form for the names of flow runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError
from rsd.machine.fingerprint import cores
from rsd.machine.yaml_file import read_yaml


def params(folder: Path) -> dict[str, Any]:
    """The values of `folder`/params.yaml; empty if it is missing or wrong, which DVC will report."""
    try:
        content = read_yaml(folder / "params.yaml")
    except (OSError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def compute(folder: Path) -> dict[str, object]:
    section = params(folder).get("compute")
    return section if isinstance(section, dict) else {}


def slots(folder: Path) -> int:
    """How many stages fit on the cores, each with the `compute.threads` of params.yaml, 1 by default."""
    threads = compute(folder).get("threads")
    return max(1, cores() // threads) if isinstance(threads, int) and threads > 0 else cores()


def pair(folder: Path) -> str:
    """The pair's name, else the folder's."""
    return str(params(folder).get("pair") or folder.name)


def in_words(folder: Path) -> str:
    """`digits/resnet-vit: scratch, rsd; seeds 0, 1, 2`."""
    return words(params(folder), folder.name)


def words(values: Mapping[str, Any], otherwise: str) -> str:
    """The same for the content of a params.yaml; `otherwise` stands for a missing pair."""
    parts = [", ".join(map(str, values["methods"]))] if values.get("methods") else []
    parts += [f"seeds {', '.join(map(str, values['seeds']))}"] if values.get("seeds") else []
    pair = str(values.get("pair") or otherwise)
    return f"{pair}: {'; '.join(parts)}" if parts else pair
