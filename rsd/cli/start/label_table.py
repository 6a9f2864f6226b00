"""A table of labels as people have it -> rows of path and class: any separator, encoding, columns and form of path."""

import csv
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rsd.machine.errors import UserError, near
from rsd.sources.label_file import HEADER, Row
from rsd.sources.layout import shown

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "spaces"}
_USUAL_NAMES = ("class", "label", "category")


class LabelTable(NamedTuple):
    """Rows of a table, and how it was read."""

    rows: list[Row]
    columns: tuple[str, str]
    """Of the paths and of the classes."""
    separator: str
    encoding: str
    is_ours: bool
    """Whether the source of images reads the table as it is."""


def read_label_table(table: Path, root: Path, images: list[str], column: str | None) -> LabelTable:
    """The table's rows, with paths relative to `root` wherever they name an image.

    A path may be relative to the root or to the table, absolute, a file's bare name, or that without its suffix.

    Args:
        images: all images below `root`, relative to it.
        column: the name or the number, from 1, of the column of classes; None: the only one beside the paths.

    Raises:
        UserError: the file is no table, or has no column of paths of these images, or several that may be the classes.
    """
    text, encoding = _text(table)
    separator, cells = _cells(text, table)
    resolve, place = _path_column(table, root, images, cells)
    has_header = resolve(cells[0][1][place]) is None
    names = cells[0][1] if has_header else [str(number + 1) for number in range(len(cells[0][1]))]
    label = _label_column(table, cells[has_header:], names, place, column)
    rows = [Row(number, resolve(row[place]) or _slashed(row[place]), row[label]) for number, row in cells[has_header:]]
    ours = (separator, names, encoding) == (",", HEADER, "UTF-8") and all(
        row.path == _slashed(cell[place]) for row, (_, cell) in zip(rows, cells[1:], strict=True)
    )
    return LabelTable(rows, (names[place], names[label]), _SEPARATORS[separator], encoding, ours)


def _text(table: Path) -> tuple[str, str]:
    try:
        content = table.read_bytes()
    except OSError as error:
        raise UserError(f"expected a table of labels at {table}, found: {error.strerror}; correct --labels") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace"), "UTF-16"
    if b"\0" in content:
        raise UserError(f"expected a table as text in {table}, found a binary file; save it as CSV")
    try:
        return content.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace"), "Windows-1252"


def _cells(text: str, table: Path) -> tuple[str, list[tuple[int, list[str]]]]:
    """The separator, and each line's number and cells."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"expected a table of labels in {table}, found an empty file; fill it, or leave out --labels")
    faults = {}
    for separator in _SEPARATORS:
        rows = [(number, _split(line, separator)) for number, line in lines]
        width = len(rows[0][1])
        if width > 1:
            odd = next((number for number, row in rows if len(row) != width), None)
            if odd is None:
                return separator, rows
            faults[separator] = f"{width} cells in the first line and another number in line {odd}"
    fault = next(iter(faults.values()), f"one cell in the first line, {shown(lines[0][1])!r}")
    raise UserError(
        f"expected as many cells in each line of {table}, at least two, separated by commas, semicolons, tabs or "
        f"spaces, found {fault}; correct the table"
    )


def _split(line: str, separator: str) -> list[str]:
    row = line.split() if separator == " " else next(csv.reader([line], delimiter=separator))
    return [cell.strip() for cell in row]


def _slashed(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _path_column(
    table: Path, root: Path, images: list[str], cells: list[tuple[int, list[str]]]
) -> tuple[Callable[[str], str | None], int]:
    """What makes a cell an image's path, and the column; the pair by which most cells name an image."""
    known, by_name, by_stem = set(images), defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for path in images:
        by_name[os.path.basename(path)].append(path)
        by_stem[os.path.splitext(os.path.basename(path))[0]].append(path)

    def relative_to(folder: Path) -> Callable[[str], str | None]:
        def resolve(cell: str) -> str | None:
            path = os.path.relpath(folder / _slashed(cell), root)
            return path if cell and path in known else None

        return resolve

    def one_of(paths: dict[str, list[str]]) -> Callable[[str], str | None]:
        def resolve(cell: str) -> str | None:
            same = paths.get(_slashed(cell), [])
            return same[0] if len(same) == 1 else None

        return resolve

    best: tuple[int, Callable[[str], str | None], int] | None = None
    for resolve in (relative_to(root), relative_to(table.parent), one_of(by_name), one_of(by_stem)):
        for column in range(len(cells[0][1])):
            count = sum(resolve(row[column]) is not None for _, row in cells)
            if count > (best[0] if best else 0):
                best = count, resolve, column
    if best is None:
        raise UserError(
            f"expected a column of images' paths in {table}, relative to {root} or to the table, found none: its last "
            f"line is {shown(' '.join(cells[-1][1]))!r}, and an image is {shown(images[0])!r}; correct the paths"
        )
    return best[1], best[2]


def _label_column(
    table: Path, cells: list[tuple[int, list[str]]], names: list[str], place: int, column: str | None
) -> int:
    others = [number for number in range(len(names)) if number != place]
    lower = [name.lower() for name in names]
    if column is None:
        usual = [number for number in others if lower[number] in _USUAL_NAMES]
        for choice in (others, usual):
            if len(choice) == 1:
                return choice[0]
    elif column in names and names.index(column) != place:
        return names.index(column)
    elif column.isdecimal() and int(column) - 1 in others:
        return int(column) - 1
    choices = ", ".join(f"{names[number]} ({len({row[number] for _, row in cells}):,} values)" for number in others)
    fault = f"no column {column!r}{near(column, names)}" if column else f"{len(others)}"
    raise UserError(
        f"expected one column of classes in {table} beside the paths, found {fault}; choose one of {choices}: "
        "--label-column NAME"
    )
