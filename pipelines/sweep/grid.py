"""What a sweep goes over: a grid, written as for `dvc exp run --queue -S`, and its cells."""

import difflib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from hydra.errors import HydraException  # DVC reads `-S` with Hydra's grammar, and lets its errors through
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsd.machine.errors import UserError
from rsd.machine.faults import in_words
from rsd.machine.options import Seed
from rsd.machine.yaml_file import read_yaml

AXIS_VALUE = re.compile(r"[^][,\s]+")
"""`a/b,c/d` has two values, and so has `[0,1]`."""


class Grid(BaseModel):
    """One grid: the product of its axes. An axis with one value holds for all cells."""

    model_config = ConfigDict(extra="forbid")

    grid: list[str] = []
    """As for `dvc exp run --queue -S`: `pair=digits/resnet-vit,mine/swin-resnet`, `method.rsd.weight=0.05,0.1`."""
    methods: list[str] | None = Field(None, min_length=1)
    """Of every cell, in place of those in params.yaml; scratch, the twin, is added."""
    seeds: list[Seed] | None = Field(None, min_length=1)
    """Of every cell, in place of those in params.yaml."""
    split: list[Literal["methods", "seeds"]] = []
    """These are spread over cells of their own. Else a cell trains all of its methods and seeds, one after another."""
    targets: list[str] = Field(["evaluate"], min_length=1)
    """The stages that a cell brings up to date, with all that they need."""


@dataclass(frozen=True)
class GridPoint:
    """One cell of a grid."""

    values: dict[str, str]
    """The params that it sets, by name: `{"method.rsd.weight": "0.1", "seeds": "[0]"}`."""
    params: str
    """The content of its params.yaml."""
    targets: tuple[str, ...]


def grids_of(name: str, own: Mapping[str, object], root: Path) -> list[Grid]:
    """The grid of the fields in `own` that are not None; if all are, the grids of conf/sweep/NAME.yaml.

    Raises `UserError` with all that is wrong with a grid.
    """
    fields = {field: value for field, value in own.items() if value is not None}
    if not fields:
        return read_grids(root / "conf" / "sweep" / f"{name}.yaml")
    try:
        return [Grid.model_validate(fields)]
    except ValidationError as error:
        raise UserError(f"the grid: {_sentence(error)}") from error


def read_grids(file: Path) -> list[Grid]:
    """The grids of a named sweep: its file holds one, or a list of them."""
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml"))) or "none"
        raise UserError(f"expected a sweep out of {file.parent} ({known}), found {file.stem!r}")
    try:
        content = read_yaml(file)
        return [Grid.model_validate(part) for part in (content if isinstance(content, list) else [content])]
    except ValidationError as error:
        raise UserError(f"{file}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    """All faults of a grid, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {in_words(fault, Grid.model_fields)}"
        for fault in error.errors()
    )


def points(grids: Sequence[Grid], base: Path) -> list[GridPoint]:
    """The cells of the grids in order, each once. `base` is the params.yaml that they change.

    Raises:
        UserError: DVC does not understand an axis, or there is no such param.
    """
    cells: dict[tuple[Any, ...], GridPoint] = {}
    for grid in grids:
        for overrides in _overrides(grid, base):
            values = dict(override.lstrip("+~").split("=", 1) for override in overrides if "=" in override)
            cell = GridPoint(values, _changed(base, overrides), tuple(grid.targets))
            cells.setdefault((cell.params, cell.targets), cell)
    return list(cells.values())


def covers(grids: Sequence[Grid], values: Mapping[str, object]) -> dict[str, list[str]]:
    """The pairs, methods and seeds that the grids go over, each once. `values` are the params that they change."""
    covered: dict[str, list[str]] = {"pair": [], "methods": [], "seeds": []}
    for grid in grids:
        axes = {name.lstrip("+"): text for name, _, text in (axis.partition("=") for axis in grid.grid)}
        own: dict[str, Any] = {"methods": ["scratch", *grid.methods] if grid.methods else None, "seeds": grid.seeds}
        for name, so_far in covered.items():
            value: Any = AXIS_VALUE.findall(axes[name]) if name in axes else own.get(name) or values.get(name) or []
            so_far += map(str, value if isinstance(value, list) else [value])
    return {name: list(dict.fromkeys(ones)) for name, ones in covered.items()}


def check_words(grids: Sequence[Grid], base: Path) -> None:
    """Raise the `UserError` of `points` after a look at one cell of each grid, which takes no time."""
    for grid in grids:
        _changed(base, _overrides(grid, base)[0])


def _changed(base: Path, overrides: list[str]) -> str:
    """The content of params.yaml with the overrides of a cell; comments stay."""
    original = base.read_text() if base.is_file() else ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(original)
        try:
            apply_overrides(file, overrides)
        except (DvcException, HydraException) as error:
            raise UserError(_refusal(error, read_yaml(file))) from error
        return file.read_text()


def _overrides(grid: Grid, params: Path) -> list[list[str]]:
    """The overrides of each cell of a grid, as `-S` takes them."""
    base: dict[str, Any] = (read_yaml(params) if params.is_file() else None) or {}
    for axis in grid.grid:
        if "=" not in axis and not axis.startswith("~"):
            raise UserError(f"the grid: expected PARAM=VALUE,VALUE as in `dvc exp run -S`, found {axis!r}")
    try:
        axes = [sweep["params.yaml"] for sweep in get_hydra_sweeps({"params.yaml": grid.grid})] if grid.grid else [[]]
    except (DvcException, HydraException) as error:
        raise UserError(_refusal(error, base)) from error
    named = {override.split("=", 1)[0].lstrip("+~") for override in axes[0]}
    for name in ("methods", "seeds"):
        if name in named and (getattr(grid, name) is not None or name in grid.split):
            raise UserError(f"{name}: expected either an axis {name}=... or {name} of their own, found both")
    methods = grid.methods or (base.get("methods") if "methods" in grid.split else None)
    seeds = grid.seeds or (base.get("seeds") if "seeds" in grid.split else None)
    method_sets: list[list[str] | None] = [None]
    if methods:
        others = [name for name in dict.fromkeys(methods) if name != "scratch"]
        apart = "methods" in grid.split and others
        method_sets = [["scratch", name] for name in others] if apart else [["scratch", *others]]
    seed_sets: list[list[int] | None] = [None]
    if seeds:
        seed_sets = [[seed] for seed in seeds] if "seeds" in grid.split else [seeds]
    shipped = (base.get("export") or {}).get("method")  # has to be one of the methods, exported or not
    cells = []
    for overrides, method_set, seed_set in product(axes, method_sets, seed_sets):
        cell = list(overrides)
        if method_set:
            cell.append(f"methods=[{','.join(method_set)}]")
            if shipped is not None and shipped not in method_set and "export.method" not in named:
                cell.append(f"export.method={method_set[-1]}")
        if seed_set is not None:
            cell.append(f"seeds=[{','.join(map(str, seed_set))}]")
        cells.append(cell)
    return cells


def _refusal(error: Exception, base: Any) -> str:
    """Why DVC refuses an axis, without Hydra's arrows and links."""
    reason = str(error.__cause__ or error).splitlines()[0]
    if not (unknown := re.match(r"Could not override '(.+)'", reason)):
        return f"the grid: {reason}"
    name = unknown[1]
    near = difflib.get_close_matches(name, _names(base), n=1)
    return f"the grid: no {name} in params.yaml; " + (f"did you mean {near[0]}?" if near else f"+{name}=... adds it")


def _names(params: Any, prefix: str = "") -> list[str]:
    if not isinstance(params, dict):
        return []
    return [name for key, value in params.items() for name in (f"{prefix}{key}", *_names(value, f"{prefix}{key}."))]
