"""Files that are either whole or not there, also after the power was cut: written aside, synced, renamed."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsd_edge.errors import EdgeError

_PIECE = 1 << 20


def sync(path: Path) -> None:
    """Have the device write down a file, or which files a folder holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes) -> None:
    """Replace a file as a whole."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value, indent=2).encode() + b"\n")


def link(path: Path, target: str) -> None:
    """Point the symbolic link `path` at `target` in one step."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    os.symlink(target, aside)
    os.replace(aside, path)
    sync(path.parent)


def remove(folder: Path) -> None:
    """Remove a folder; what is left of it after a kill has a name that nothing looks for."""
    if folder.exists():
        aside = folder.with_name(f".{folder.name}.gone")
        if aside.exists():
            shutil.rmtree(aside)
        os.replace(folder, aside)
        shutil.rmtree(aside)


def read(path: Path, most: int) -> bytes:
    """A small regular file, no link; EdgeError if it is larger than `most` bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise EdgeError(f"expected at most {most} bytes in {path.name}, found more; this is no bundle of rsd")
    return content


def digest(path: Path, size: int, *, copy: Path | None = None) -> str | None:
    """Hex SHA-256 of a regular file that must be of `size` bytes, copied to `copy` and synced on the way.

    None if it is of another size: no more than that is ever read or written.
    """
    total, sha256 = 0, hashlib.sha256()
    with contextlib.ExitStack() as stack:
        # O_NOFOLLOW: a link that was put in its place since the folder was looked at is not followed.
        file = stack.enter_context(os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb"))
        out = stack.enter_context(copy.open("xb")) if copy else None
        while total <= size and (piece := file.read(min(_PIECE, size + 1 - total))):
            total += len(piece)
            sha256.update(piece)
            if out and total <= size:
                out.write(piece)
        if out:
            out.flush()
            os.fsync(out.fileno())
    return sha256.hexdigest() if total == size else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process now holds a lock that the system gives back when the process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def attended(folder: Path) -> Iterator[None]:
    """Let `is_attended` say so of a folder, to whoever can read it, until the block or the process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(BlockingIOError):  # who only looks must not be able to keep anybody from work
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_attended(folder: Path) -> bool:
    """Whether a process attends to a folder; nothing is written."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
