"""DVC's command line, and what its output says."""

import sys
from collections.abc import Iterable

DVC = [sys.executable, "-P", "-m", "dvc"]
"""This interpreter's DVC; -P keeps the project off its import path."""


def verdict(lines: Iterable[str]) -> str:
    """How DVC says that it brought a stage up to date: `unchanged`, `from cache` or `ran`."""
    for line in lines:
        if line.endswith("didn't change, skipping"):
            return "unchanged"
        if "is cached - skipping run" in line:
            return "from cache"
    return "ran"


def reason(lines: Iterable[str]) -> str:
    """What the stage itself said: its `error: ...` sentence, else its last line before DVC's verdict."""
    said: list[str] = []
    verdict = ""
    for line in lines:
        if line.startswith("ERROR: "):
            verdict = line.removeprefix("ERROR: ")
        elif not verdict:
            said.append(line)
    for number in reversed(range(len(said))):
        if said[number].startswith("error: "):  # and what follows: a list of several errors is one message
            return "\n".join(said[number:]).removeprefix("error: ")
    last = next((line for line in reversed(said) if not line.startswith(("> ", "Running stage "))), "")
    return " - ".join(part for part in (last, verdict) if part) or "it said nothing"
