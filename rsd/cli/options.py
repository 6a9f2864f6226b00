"""What the commands share."""

import math
from collections.abc import Callable
from typing import Any

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


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[Any], Any]:
    """The parser of an option that is a number from `low` to `high`; typer's own answers in the words of pydantic.

    The parser raises `typer.BadParameter` for anything else, NaN included.
    """

    def parse(text: Any) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            name = "a whole number" if kind is int else "a number"
            raise typer.BadParameter(f"expected {name} from {low:,} to {high:,}, found {text!r}")
        return value

    return parse


def duration(text: str) -> float:
    """Seconds of `90`, `90s` or `10m`, a week at most; typer.BadParameter for anything else."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60}[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 7 * 86_400:
        raise typer.BadParameter(f"expected a duration such as 90s or 10m, a week at most, found '{text}'")
    return seconds
