"""How much runs side by side on this machine."""

from typing import Any

import yaml

from rsd.device import cores


def slots(params: str) -> int:
    """How many stages fit on the cores: each computes with `compute.threads` of params.yaml, 1 if it says none."""
    content: Any = yaml.safe_load(params)
    compute = content.get("compute") if isinstance(content, dict) else None
    threads = compute.get("threads") if isinstance(compute, dict) else None
    return max(1, cores() // threads) if isinstance(threads, int) and threads > 0 else cores()
