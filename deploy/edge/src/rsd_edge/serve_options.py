"""What `rsd-edge serve` can be told, and its limits; apart from the server, so that other commands load none of it."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class ServeOptions:
    """Every field is a flag of `rsd-edge serve` of the same name."""

    host: str = "127.0.0.1"
    """Address to listen on; only this machine reaches the default."""
    port: int = 8080
    """0 takes a free one, which the first line of the output names."""
    token_file: Path | None = None
    """A file that holds the token which clients send as `Authorization: Bearer TOKEN`; a file, because command
    lines and environments can be read by others."""
    precision: str | None = None
    """Which model of the release to serve; the release's own choice if not given."""
    threads: int = 1
    """Threads of the runtime for one inference."""
    workers: int = min(4, os.cpu_count() or 1)
    """Requests that are worked on at the same time."""
    queue: int = 64
    """Requests that may wait for a worker; the next one is answered 429."""
    connections: int = 256
    """Open connections; the next one is closed at once."""
    max_body: int = 16 * MEGABYTE
    """Bytes of a request's body, also after unpacking. Four times as many may be held for all requests together, as
    they were sent; a worker unpacks the one that it works on."""
    max_pixels: int = 1 << 24
    """Of one image; while it is decoded, a pixel was seen to take 13 bytes."""
    max_batch: int = 32
    """Images in one request."""
    timeout: float = 10.0
    """Seconds for the head of a request, for its body, and for its answer; each."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the flags of `serve`."""
    whole = {"port": (0, 65535), "threads": (1, 64), "workers": (1, 64), "queue": (0, 100_000)}
    whole |= {
        "connections": (1, 100_000),
        "max_body": (1024, 1 << 30),
        "max_batch": (1, 65536),
        "max_pixels": (4, 1 << 26),
    }
    help_ = {
        "host": "address to listen on",
        "port": "port to listen on; 0 takes a free one",
        "token_file": "file with the token that clients must send as 'Authorization: Bearer TOKEN'",
        "precision": "which model of the release to serve",
        "threads": "threads of the runtime for one inference",
        "workers": "requests worked on at the same time",
        "queue": "requests that may wait for a worker; the next one is answered 429",
        "connections": "open connections; the next one is closed",
        "max_body": "bytes of a request's body",
        "max_pixels": "pixels of an image",
        "max_batch": "images in one request",
        "timeout": "seconds for a request's head, its body and its answer, each",
    }
    types: dict[str, Callable[[str], Any]] = {name: _between(*ends) for name, ends in whole.items()}
    types |= {"token_file": Path, "timeout": _seconds}
    for field in fields(ServeOptions):
        default = "" if field.default is None else " (default: %(default)s)"
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=types.get(field.name, str),
            default=field.default,
            help=help_[field.name] + default,
        )


def options_from(arguments: argparse.Namespace) -> ServeOptions:
    """The options that `add_options` has read."""
    return ServeOptions(**{field.name: getattr(arguments, field.name) for field in fields(ServeOptions)})


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, found {text!r}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 3600, found {text!r}")
    return seconds
