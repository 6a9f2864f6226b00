"""Files that are whole or absent: written aside, synced, renamed."""

import csv
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block succeeds.

    The block writes a file or makes a folder. A kill at any moment leaves the old content of `path` or the new one,
    never a part. A folder is absent for a moment, because a folder cannot be renamed over another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (path.parent / f".{path.name}.{suffix}" for suffix in ("writing", "old.writing"))
    _remove(aside)
    try:
        yield aside
        for part in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            _sync(part)
        if path.is_dir():
            path.replace(old)
        aside.replace(path)
        _sync(path.parent)
    finally:
        _remove(aside)
        _remove(old)


def move_folder(folder: Path, target: Path) -> None:
    """Move a folder to `target`, which it replaces. A kill at any moment leaves it whole in one of the two places."""
    for part in [*folder.rglob("*"), folder]:
        _sync(part)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(target)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # another file system
            raise
        with written_aside(target) as aside:
            shutil.copytree(folder, aside)
        _remove(folder)
    _sync(target.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON; NaN is refused, because JSON has none."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_array(path: Path, array: "np.ndarray") -> None:
    """Write an array as `.npy`."""
    import numpy as np

    with written_aside(path) as aside, aside.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_table(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows as CSV; a cell that a row lacks, or that is NaN, stays empty."""
    columns = dict.fromkeys(column for row in rows for column in row)
    with written_aside(path) as aside, aside.open("w", newline="") as file:
        table = csv.DictWriter(file, [*columns], lineterminator="\n")
        table.writeheader()
        table.writerows({name: "" if math.isnan(value) else value for name, value in row.items()} for row in rows)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
