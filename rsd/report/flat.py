"""Nested params as lines for a reader."""

from collections.abc import Iterable
from typing import Any

LONGEST_VALUE = 160


def section_order(params: Iterable[str]) -> list[str]:
    """In the order of the work: what was run, data and models, training, methods, then what follows."""
    first = ["run", "data", "teacher", "teacher_recipe", "student", "student_gate", "recipe", "views"]
    last = ["compute", "export", "engine", "benchmark", "bundle"]
    order = {name: i for i, name in enumerate([*first, "method", *last])}
    return sorted(params, key=lambda name: (order.get(name.split(".")[0], len(order)), name))


def flat(values: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as pairs of a dotted key and a text; long texts are cut."""
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        values = dict(enumerate(values))
    if isinstance(values, dict):
        below = [
            pair for key, value in values.items() for pair in flat(value, f"{prefix}.{key}" if prefix else str(key))
        ]
        return below or ([(prefix, "none")] if prefix else [])
    if values is None or values == []:
        text = "none"
    elif isinstance(values, bool):
        text = "yes" if values else "no"
    elif isinstance(values, list):
        text = ", ".join(map(str, values))
    else:
        text = str(values)
    return [(prefix, text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + " …")]
