"""The state of an unfinished training, written whole and read without running anything."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rsd.machine import parallel
from rsd.machine.errors import UserError
from rsd.machine.files import written_aside


def save(path: Path, state: Mapping[str, object]) -> None:
    """Write tensors and plain values; UserError if there is no room or right for it, and what was before stays."""
    try:
        with written_aside(path) as aside, aside.open("wb") as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:
        # torch.save turns a write that breaks off into an internal error of its own.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        fault = error.strerror if isinstance(error, OSError) else "the write broke off, as on a full disk"
        raise UserError(
            f"expected to write the checkpoint {path}, found: {fault}; free space and run the same command again: "
            + ("training goes on from the last checkpoint, which is whole" if path.is_file() else "it starts afresh")
        ) from error


def load(path: Path) -> dict[str, Any] | None:
    """The state at the leading process's `path`, or None if there is none, in every process; all call it.

    They may be on machines with folders of their own.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    source: Path | io.BytesIO | None = path if path.is_file() else None
    if parallel.processes() > 1:
        content = parallel.bytes_from_leader(path.read_bytes() if parallel.leads() and source else None)
        source = None if content is None else io.BytesIO(content)
    if source is None:
        return None
    with whole(path):
        return dict(torch.load(source, map_location="cpu", weights_only=True))


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint raises, but for a lack of memory, into the sentence of a UserError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file raises many classes
        fault = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"expected a whole checkpoint in {path}, found one that cannot be read ({fault}); remove it and run the "
            "same command again, which then starts afresh"
        ) from error
