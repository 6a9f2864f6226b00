"""DVC's command line, and the meaning of its output."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipelines.process_group import Ended, run_group

DVC = [sys.executable, "-P", "-m", "dvc"]
"""This interpreter's DVC; -P keeps the project off its import path."""

UNSTORED = "ERROR: failed to transfer "
TIPS = (
    "To track the changes with git, run:",
    "\tgit add ",
    "To enable auto staging, run:",
    "\tdvc config core.autostage true",
    "Use `dvc push` to send your updates to remote storage.",
)
"""How lines begin in which DVC tells a person at a terminal what to type next."""


def no_tips(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say`, but not of a line that is a tip."""
    return lambda line: None if line.startswith(TIPS) else say(line)


def run_dvc(
    arguments: Iterable[str], folder: Path, *, say: Callable[[str], None] = lambda line: None, **options: Any
) -> Ended:
    """Run DVC as `run_group` does, with `options` for it; `say` gets no tips.

    Where DVC could not store an output in its cache, it may end with status 0 all the same; here the status is 1.
    """
    unstored: list[str] = []

    def follow(line: str) -> None:
        if line.startswith(UNSTORED):
            unstored.append(line.removeprefix(UNSTORED))
        no_tips(say)(line)

    ended = run_group([*DVC, *arguments], folder, say=follow, **options)
    if ended.status or not unstored:
        return ended
    sentence = f"expected DVC to keep all that the stage wrote, found no way to store {unstored[0]}"
    return Ended(1, [f"error: {sentence}; make room for DVC's cache, then run this again"])


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
