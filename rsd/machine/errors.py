"""The exception whose text is for the person at the terminal."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

PATIENCE = "RSD_PATIENCE"
"""The environment variable with the seconds that a process which lost its peers leaves to whoever knows why."""


class UserError(Exception):
    """One clear sentence: what was expected, what was found, and what to do.

    Stages and commands print it without a traceback and exit with status 1.
    """


def near(word: object, known: Iterable[str]) -> str:
    """A hint at the known word that is most like `word`, to end a sentence with; empty if none is alike."""
    words = get_close_matches(str(word), sorted(known), n=1)
    return f"; did you mean {words[0]}?" if words else ""


def first_line(error: BaseException) -> str:
    """Of the error's message, without a terminal's colours and a full stop; its type where it has none."""
    return (re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
