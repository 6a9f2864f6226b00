"""What the commands share."""

import math

import typer


def app_of(description: str) -> typer.Typer:
    """A group of commands that prints its help if it is called without one."""
    return typer.Typer(
        help=description,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def duration(text: str) -> float:
    """Seconds of `90`, `90s` or `10m`.

    Raises:
        typer.BadParameter: it is none of them.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60}[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise typer.BadParameter(f"expected a duration such as 90s or 10m, found '{text}'")
    return seconds
