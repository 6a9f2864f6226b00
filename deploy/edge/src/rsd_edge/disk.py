"""Files that are either whole or absent, even after a power cut: written aside, synced, renamed."""

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
    """Flush a file, or the list of files of a folder, to the disk."""
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
    """Remove a folder; after a kill, the rest of it has a hidden name."""
    if folder.exists():
        aside = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        shutil.rmtree(aside)


def read(path: Path, limit: int) -> bytes:
    """Content of a file, not of a link to one; EdgeError if it is larger than `limit` bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise EdgeError(f"expected at most {limit} bytes in {path.name}, found more; give a bundle that rsd made")
    return content


def digest(path: Path, size: int, *, copy: Path | None = None) -> str | None:
    """Hex SHA-256 of a file, which is copied to `copy` and synced on the way.

    None if the file is not `size` bytes long. Never reads more than one byte beyond `size`, nor writes beyond it.
    """
    total, sha256 = 0, hashlib.sha256()
    with contextlib.ExitStack() as stack:
        # O_NOFOLLOW: the file may have been replaced by a link since the folder was listed.
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
    """Whether this process holds the lock; the system releases it when the process ends, however it ends."""
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
    """Make `is_attended` true for a folder until the block or the process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(BlockingIOError):  # `is_attended` of another process must not stop this one
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_attended(folder: Path) -> bool:
    """Whether a process is in `attended` for this folder; writes nothing."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
