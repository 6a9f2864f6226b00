"""Things that are one file each in a folder, such as methods: a thing's name is its file's name."""

from pathlib import Path


def module_names(folder: Path) -> list[str]:
    """The Python files of a folder but `base.py` and those that start with an underscore or a dot."""
    return sorted(file.stem for file in folder.glob("[!_.]*.py") if file.stem != "base")
