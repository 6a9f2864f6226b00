"""How a benchmark is started."""

import sys
import time
from collections.abc import Callable
from typing import Literal

import typer

from rsd.machine.errors import UserError

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
