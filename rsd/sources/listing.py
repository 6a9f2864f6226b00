"""Digests of files outside the project, which DVC does not watch."""

import hashlib
import os
from pathlib import Path

from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.run.names import CONFIG, WEIGHTS

NAMES = (WEIGHTS, "pytorch_model.bin")
"""Names of a file of weights in this project, timm and the hub; in a folder the first one that exists counts."""


def weights_file(path: Path) -> Path:
    """The file of weights: `path` itself, or the file in the folder `path`; UserError if there is none."""
    for file in (path / name for name in NAMES) if path.is_dir() else (path,):
        if file.is_file():
            return file
    content = "a folder without one" if path.is_dir() else "no such file"
    raise UserError(
        f"expected weights at {path}, found {content}; give the path of a file, or of a folder with "
        f"{' or '.join(NAMES)}"
    )


def weights_content(path: Path) -> dict[str, str]:
    """SHA-256 of the weights at `path` and of their description, by file name; empty without weights."""
    try:
        file = weights_file(path)
    except UserError:
        return {}  # the stage that reads them reports it
    return {part.name: sha256(part) for part in (file, file.with_name(CONFIG)) if part.is_file()}


def listing(root: Path) -> str:
    """SHA-256 of the names, sizes and times of change of all files under `root`; links are followed, no file is read.

    `root` may be a file, or missing. An unreadable file counts like any other: the stage that reads the images
    reports it.
    """
    lines = [_line(root.name, root)] if root.is_file() else []
    waiting, visited = [""] if root.is_dir() else [], set()
    while waiting:
        folder = waiting.pop()
        if (real := os.path.realpath(root / folder)) in visited:
            continue  # a link that leads back up
        visited.add(real)
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = f"{folder}{entry.name}"
                    if _is_folder(entry):
                        waiting.append(f"{name}/")
                    else:
                        lines.append(_line(name, entry))
        except OSError as error:
            lines.append(f"{folder}\tcannot be listed: {error.strerror}")
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one
        return False


def _line(name: str, file: "Path | os.DirEntry[str]") -> str:
    try:
        facts = file.stat()
    except OSError as error:
        return f"{name}\tcannot be read: {error.strerror}"
    return f"{name}\t{facts.st_size}\t{facts.st_mtime_ns}"
