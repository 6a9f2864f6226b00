"""Labels from a table beside the images: `path,class`, for a folder whose images lie in no class folders."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rsd.machine.errors import UserError
from rsd.sources.layout import Layout, every_image, shown

HEADER = ["path", "class"]
_SHOWN = 5  # faults in the sentence


class Row(NamedTuple):
    """A row of a table of labels."""

    line: int
    path: str
    """Relative to the root, with slashes."""
    name: str
    """Of the class; empty: no label."""


def labelled_layout(root: Path, rows: Iterable[Row], table: Path) -> Layout:
    """The images below `root` by the class in their row of `table`; without a row or a class they have no label.

    Raises:
        UserError: a row names a path that is no image, or one image twice, or no row names a class.
    """
    everything = every_image(root)
    images = everything.unlabelled
    known, classes, faults = set(images), dict[str, str](), list[str]()
    for number, path, name in rows:
        if path not in known:
            faults.append(f"line {number}: no image {shown(path)} below {root}")
        elif path in classes:
            again = "again" if classes[path] == name else f"as {shown(classes[path])} and as {shown(name)}"
            faults.append(f"line {number}: {shown(path)} {again}")
        else:
            classes[path] = name
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError(
            f"expected each image below {root} once at most in {table}, found {'; '.join(faults[:_SHOWN])}{more}; "
            "correct the table"
        )
    by_class: dict[str, list[str]] = {name: [] for name in sorted({name for name in classes.values() if name})}
    for path in images:
        if classes.get(path):
            by_class[classes[path]].append(path)
    if not by_class:
        raise UserError(f"expected a class in at least one row of {table}, found none; fill the column 'class'")
    without = [path for path in images if not classes.get(path)]
    return everything._replace(files={"train": by_class}, folders={"train": ""}, unlabelled=without)


def read_rows(table: Path) -> list[Row]:
    """The rows of a CSV in UTF-8 with the first line `path,class`; UserError if it cannot be read or is another."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except OSError as error:
        raise UserError(
            f"expected a table of labels in {table}, found: {error.strerror}; correct data.labels"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"expected {table} in UTF-8, found another encoding; save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"expected a CSV table in {table}, found: {error}; correct the table") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if header != HEADER:
        first = shown(",".join(header)) or "nothing"
        raise UserError(
            f"expected {','.join(HEADER)} as the first line of {table}, found {first}; name the two columns so, and "
            "separate them by a comma"
        )
    wrong = [number for number, row in enumerate(rows[1:], start=2) if len(row) != len(HEADER)]
    if wrong:
        raise UserError(f"expected two cells in each line of {table}, found others in line {wrong[0]}; correct it")
    return [
        Row(number, path.strip().replace("\\", "/").removeprefix("./"), name.strip())
        for number, (path, name) in enumerate(rows[1:], start=2)
    ]
