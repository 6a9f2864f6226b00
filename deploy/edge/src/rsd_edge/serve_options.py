"""The options of `rsd-edge serve`; apart from the server, so that no other command loads it."""

import argparse
import math
import os
from collections.abc import Callable, Container
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

from rsd_edge.choices import Pins
from rsd_edge.records import MAX_THREADS


def number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers from `low` to `high`, for argparse."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {name} from {low} to {high}, found {text!r}")
        return value

    return parse


@dataclass(frozen=True)
class ServeOptions:
    """Every field is an option of `rsd-edge serve` of the same name, with its parser and its help."""

    host: Annotated[str, str, "address to listen on; only this machine reaches 127.0.0.1"] = "127.0.0.1"
    port: Annotated[int, number(int, 0, 65535), "port to listen on; 0 takes a free one"] = 8080
    # A file, because other users can read command lines and environments.
    token_file: Annotated[Path | None, Path, "file with the token for 'Authorization: Bearer TOKEN'"] = None
    precision: Annotated[str | None, str, "only this precision; else the device chooses"] = None
    runtime: Annotated[str | None, str, "only this runtime, such as openvino; else the device chooses"] = None
    threads: Annotated[int | None, number(int, 1, MAX_THREADS), "threads of one inference; else the device chooses"] = (
        None
    )
    workers: Annotated[int, number(int, 1, 64), "requests worked on at the same time"] = min(4, os.cpu_count() or 1)
    queue: Annotated[int, number(int, 0, 100_000), "requests that may wait; the next one is answered 429"] = 64
    connections: Annotated[int, number(int, 1, 100_000), "open connections; the next one is closed at once"] = 256
    # All bodies in memory, as they were sent, may take four times as much; each worker unpacks one.
    max_body: Annotated[int, number(int, 1024, 1 << 30), "bytes of a request's body, also after unpacking"] = 16 << 20
    # A pixel takes up to 13 bytes while its image is decoded (measured).
    max_pixels: Annotated[int, number(int, 4, 1 << 26), "pixels of an image"] = 1 << 24
    max_batch: Annotated[int, number(int, 1, 65536), "images in one request"] = 32
    timeout: Annotated[float, number(float, 0.1, 3600), "seconds for the head, the body and the answer, each"] = 10.0

    @property
    def pins(self) -> Pins:
        """What is fixed of how a release is run."""
        return Pins(self.precision, self.runtime, self.threads)


def add_options(parser: argparse.ArgumentParser, *, only: Container[str] | None = None) -> None:
    """Give `parser` the options of `serve`, or only those of these names."""
    for name, hint in get_type_hints(ServeOptions, include_extras=True).items():
        if only is not None and name not in only:
            continue
        kind, help_ = hint.__metadata__
        default = getattr(ServeOptions, name)
        note = "" if default is None else " (default: %(default)s)"
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, help=help_ + note)


def options_from(arguments: argparse.Namespace) -> ServeOptions:
    """The options that `add_options` has read."""
    return ServeOptions(**{option.name: getattr(arguments, option.name) for option in fields(ServeOptions)})
