"""Files outside the project, which DVC does not watch: which they are, and what tells that they have changed."""

import hashlib
import os
from pathlib import Path

from rsd.machine.errors import UserError
from rsd.machine.files import sha256

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What a folder of weights holds, as this project, timm and the hub name it; the first that is there counts."""
STATED = "model.json"
"""What lies beside the weights and says how they are to be used."""


def weights_file(path: Path) -> Path:
    """The file of weights that `path` means: itself, or the one in the folder that it is.

    Raises:
        UserError: there is none.
    """
    for file in (path / name for name in WEIGHTS) if path.is_dir() else (path,):
        if file.is_file():
            return file
    found = "a folder without one" if path.is_dir() else "no such file"
    raise UserError(
        f"expected a teacher checkpoint at {path}, found {found}; correct teacher.path "
        f"(a file, or a folder with {' or '.join(WEIGHTS)})"
    )


def weights_content(path: Path) -> dict[str, str]:
    """SHA-256 by name of the weights that `path` means and of what is stated beside them; empty if there are none."""
    try:
        file = weights_file(path)
    except UserError:
        return {}  # the stage that reads it says so
    return {part.name: sha256(part) for part in (file, file.with_name(STATED)) if part.is_file()}


def listing(root: Path) -> str:
    """SHA-256 of the names, sizes and times of change of all files under `root`, links followed; fast, nothing is read.

    A file stands for itself; what is not there has the digest of nothing. What cannot be read is a line like any
    other: the stage that reads the images says what is wrong with it.
    """
    lines = [_line(root.name, root)] if root.is_file() else []
    waiting, seen = [""] if root.is_dir() else [], set()
    while waiting:
        folder = waiting.pop()
        if (real := os.path.realpath(root / folder)) in seen:
            continue  # a link that leads back up
        seen.add(real)
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
