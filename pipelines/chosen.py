"""What params.yaml chose, in a few words: the names of runs say it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rsd.machine.fingerprint import cores


def params(folder: Path) -> dict[str, Any]:
    """The values of `folder`/params.yaml; empty where there is none, or none that can be read: DVC says why."""
    try:
        content = yaml.safe_load((folder / "params.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def compute(folder: Path) -> dict[str, Any]:
    section = params(folder).get("compute")
    return section if isinstance(section, dict) else {}


def slots(folder: Path) -> int:
    """How many stages fit on the cores: each computes with `compute.threads` of params.yaml, 1 if it says none."""
    threads = compute(folder).get("threads")
    return max(1, cores() // threads) if isinstance(threads, int) and threads > 0 else cores()


def pair(folder: Path) -> str:
    """The pair's name, else the folder's."""
    return str(params(folder).get("pair") or folder.name)


def in_words(folder: Path) -> str:
    """`digits/resnet-vit: scratch, rsd; seeds 0, 1, 2`."""
    return words(params(folder), folder.name)


def words(values: Mapping[str, Any], otherwise: str) -> str:
    """The same of the content of a params.yaml; `otherwise` where it names no pair."""
    said = [", ".join(map(str, values["methods"]))] if values.get("methods") else []
    said += [f"seeds {', '.join(map(str, values['seeds']))}"] if values.get("seeds") else []
    pair = str(values.get("pair") or otherwise)
    return f"{pair}: {'; '.join(said)}" if said else pair
