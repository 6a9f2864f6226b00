"""How a benchmark is started."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import typer

from rsd.machine.errors import UserError, near

Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` counts this process's own work, for a machine that does other work meanwhile."""


def command(main: Callable[..., None], description: str | None) -> None:
    """Run `main` with its parameters as options of the command line; a UserError ends it with one sentence.

    `description` is its module's text, which is the help as it stands.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(help="\b\n" + (description or "").replace("\n\n", "\n\n\b\n"))(main)
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")


def named(names: Sequence[str] | None, rows: Iterable[str]) -> list[str]:
    """The rows of a table that an option names, or all of them; UserError for a name that is none of theirs."""
    known = [*rows]
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"expected one of {', '.join(known)}, found '{unknown[0]}'{near(unknown[0], known)}")
    return [*(names or known)]
