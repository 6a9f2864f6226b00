"""DVC's command line, and the meaning of its output."""

import sys
from collections.abc import Iterable

DVC = [sys.executable, "-P", "-m", "dvc"]
"""This interpreter's DVC; -P keeps the project off its import path."""


def verdict(lines: Iterable[str]) -> str:
    """How DVC brought a stage up to date, by its output: `unchanged`, `from cache` or `ran`."""
    for line in lines:
        if line.endswith("didn't change, skipping"):
            return "unchanged"
        if "is cached - skipping run" in line:
            return "from cache"
    return "ran"


def reason(lines: Iterable[str]) -> str:
    """Why a stage failed: its own `error: ...` sentence, else its last line and DVC's error."""
    own: list[str] = []
    error = ""
    for line in lines:
        if line.startswith("ERROR: "):
            error = line.removeprefix("ERROR: ")
        elif not error:
            own.append(line)
    for number in reversed(range(len(own))):
        if own[number].startswith("error: "):  # with the lines after it: a list of several errors is one message
            return "\n".join(own[number:]).removeprefix("error: ")
    last = next((line for line in reversed(own) if not line.startswith(("> ", "Running stage "))), "")
    return " - ".join(part for part in (last, error) if part) or "it printed nothing"
