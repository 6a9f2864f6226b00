"""From the cells of a grid to units of work: what each runs, what cells share and so runs first, what is done."""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines import chosen
from pipelines.dvc_graph import StageNode, stages
from pipelines.git import objects
from pipelines.sweep.grid import Point
from rsd.machine.errors import UserError

PARAMS, RESOLVED = "params.yaml", "out/params"
MOST_SENTENCES = 10
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast, where it is there: a sweep reads the params of every cell."""


@dataclass(frozen=True)
class Unit:
    """What one workspace does: bring `targets` up to date under `params`, and save that as an experiment."""

    name: str
    """Of the experiment. It ends in a digest of all that the result depends on in the project."""
    label: str
    """For people."""
    params: str
    """The content of params.yaml."""
    targets: tuple[str, ...]
    values: dict[str, str]
    """What the cell sets, by the name of the param."""
    needs: tuple[str, ...]
    """Units that run what this one shares with others."""
    shared: tuple[str, ...]
    """The addresses of these stages."""
    cell: bool = True
    """Or stages that cells share."""

    def title(self, otherwise: str) -> str:
        """Of its task: `LABEL of PAIR: METHODS; SEEDS`, for shared stages `LABEL of PAIR`; `otherwise` for no pair."""
        values = yaml.load(self.params, LOADER)  # noqa: S506 - a safe one
        values = values if isinstance(values, dict) else {}
        what = chosen.words(values if self.cell else {"pair": values.get("pair")}, otherwise)
        return f"{self.label} of {what}" if self.label else what


@dataclass(frozen=True)
class Cell:
    """A point of the grid with its part of the graph, each stage after its upstream."""

    point: Point
    keys: dict[str, str]
    """By address; equal in two cells where the stage does the same, as far as the project tells."""
    upstream: dict[str, tuple[str, ...]]

    def closure(self, targets: Iterable[str]) -> set[str]:
        """These addresses, with all that they need."""
        found: set[str] = set()
        waiting = list(targets)
        while waiting:
            address = waiting.pop()
            if address not in found:
                found.add(address)
                waiting += self.upstream[address]
        return found


def plan(
    root: Path, sweep: str, points: Sequence[Point], commit: str, existing: Mapping[str, str]
) -> tuple[list[Unit], dict[str, str]]:
    """The units of a sweep over the project's `commit`, each after what it needs, and the refs of those that are done.

    A unit is done if one of the `existing` experiments (refs by name), of this sweep or another, ends in its digest.
    What several cells share is a unit of its own, so that a teacher, its views and the scratch twins are trained once,
    however many cells run side by side. That is a matter of speed only: DVC decides in every cell what is stale.

    Raises:
        UserError: params that the project refuses, or a target that is no stage.
    """
    cells = _cells(root, points, commit)
    by_digest = {name.rpartition("-")[2]: (name, ref) for name, ref in existing.items()}
    done: dict[str, str] = {}

    def name(label: str, digest: str) -> str:
        found, ref = by_digest.get(digest, (f"{sweep}{_slug(label)}-{digest}", None))
        if ref is not None:
            done[found] = ref
        return found

    owners: dict[str, str] = {}
    units = _shared_units(cells, owners, name)
    for label, cell in zip(_labels(points), cells, strict=True):
        needs, shared = _needs(cell, cell.keys, owners)
        point = cell.point
        digest = _digest([*cell.keys.values(), sorted(point.values.items())])
        units.append(Unit(name(label, digest), label, point.params, point.targets, point.values, needs, shared))
    by_name = {unit.name: unit for unit in units}
    wanted = {unit.name for unit in units if unit.cell}
    waiting = [unit.name for unit in units if unit.cell and unit.name not in done]
    while waiting:  # of what is shared only what unfinished cells need
        needs = by_name[waiting.pop()].needs
        waiting += [name for name in needs if name not in wanted and name not in done]
        wanted.update(needs)
    return [unit for unit in units if unit.name in wanted], done


def _shared_units(cells: Sequence[Cell], owners: dict[str, str], named: Callable[[str, str], str]) -> list[Unit]:
    """Units for what more than one cell needs, in order; `owners` gets the unit that runs each such stage.

    Stages before the matrix are one unit; each shared cell of the matrix is one, so that they run side by side.
    """
    count = Counter(key for cell in cells for key in {*cell.keys.values()})
    units: dict[str, Unit] = {}
    for cell in cells:
        fresh = [address for address, key in cell.keys.items() if count[key] > 1 and key not in owners]
        if not fresh:
            continue
        before = [address for address in fresh if not any("@" in name for name in cell.closure([address]))]
        inner = {name for address in before for name in cell.upstream[address]}
        groups = [[address for address in before if address not in inner]] if before else []
        for group in [*groups, *([address] for address in fresh if "@" in address)]:
            name = named(f"shared {' '.join(group)}", _digest([cell.keys[address] for address in group]))
            needs, shared = _needs(cell, cell.closure(group), owners)
            for address in cell.closure(group) & set(fresh):
                owners.setdefault(cell.keys[address], name)
            label = f"shared: {', '.join(group)}"
            values = cell.point.values
            units[name] = Unit(name, label, cell.point.params, tuple(group), values, needs, shared, cell=False)
    return list(units.values())


def _needs(cell: Cell, addresses: Iterable[str], owners: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The units that run some of these stages, and which of them."""
    shared = tuple(sorted(address for address in addresses if cell.keys.get(address) in owners))
    return tuple(sorted({owners[cell.keys[address]] for address in shared})), shared


def _cells(root: Path, points: Sequence[Point], commit: str) -> list[Cell]:
    sections = _sections(root, points)
    graph = (root / "dvc.yaml").read_text() if (root / "dvc.yaml").is_file() else ""
    # What dvc.yaml takes from the params decides which stages there are; the graph is loaded once for each such choice.
    templated = sorted({name for name in re.findall(r"\$\{\s*([\w.]+)", graph) if name.split(".")[0] != "item"})
    loaded: dict[str, list[StageNode]] = {}
    cells = []
    ids: dict[str, str] = {}
    for point, resolved in zip(points, sections, strict=True):
        params = yaml.load(point.params, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}  # noqa: S506
        shape = json.dumps([[_value(params, name) for name in templated], point.targets])
        if shape not in loaded:
            loaded[shape] = _graph(graph, point)
            ids |= objects(root, commit, {path for node in loaded[shape] for path in node.reads if ":" not in path})
        nodes = loaded[shape]
        keys = _keys(nodes, ids, params, resolved)
        cells.append(Cell(point, keys, {node.address: node.upstream for node in nodes}))
    return cells


def _graph(graph: str, point: Point) -> list[StageNode]:
    """The stages as DVC sees them under the cell's params, in a project that has nothing but those."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        (scratch / ".dvc").mkdir()
        (scratch / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
        (scratch / "dvc.yaml").write_text(graph)
        (scratch / PARAMS).write_text(point.params)
        return stages(scratch, point.targets)


def _keys(
    nodes: Sequence[StageNode], ids: Mapping[str, str], params: Any, resolved: Mapping[str, str] | None
) -> dict[str, str]:
    """A digest for each stage of all that it depends on: its command, code, params, and the stages before it.

    `resolved` are the digests of the sections below `RESOLVED`. The stage that writes them reads all params and is
    left out: what others read of it is looked at section by section.
    """
    everything = _digest(params)
    keys: dict[str, str] = {}
    for node in nodes:
        if resolved is not None and f"{PARAMS}:" in node.reads:
            continue
        read = [node.address, node.command]
        for path in node.reads:
            if path.startswith(f"{PARAMS}:"):
                name = path.partition(":")[2]
                found = _digest(_value(params, name)) if name else everything
            elif resolved is not None and (path == RESOLVED or path.startswith(f"{RESOLVED}/")):
                section = path.removeprefix(f"{RESOLVED}/").partition(":")[0]  # a key of it is read with all of it
                found = resolved.get(section, everything)
            else:
                found = ids.get(path, "")
            read.append(f"{path} {found}")
        keys[node.address] = _digest([*read, *(keys[name] for name in node.upstream if name in keys)])
    return keys


def _sections(root: Path, points: Sequence[Point]) -> list[dict[str, str] | None]:
    """What the project makes of each cell's params; None where it has no conf/ that they are resolved against."""
    if not (root / "conf").is_dir():
        return [None] * len(points)
    with tempfile.TemporaryDirectory() as folder:
        for number, point in enumerate(points):
            (Path(folder) / f"{number:06}.yaml").write_text(point.params)
        # In a process of its own: it imports torch, and the project's own methods.
        done = subprocess.run(
            [sys.executable, "-m", "rsd", "check", folder], cwd=root, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise UserError(
            f"the params could not be checked: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}"
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong: dict[str, str] = {}
    for label, answer in zip(_labels(points), answers, strict=True):
        if "error" in answer:
            wrong.setdefault(answer["error"], label)
    if wrong:
        said = [f"{label or 'all cells'}: {_first(error)}" for error, label in wrong.items()]
        more = [f"and {len(said) - MOST_SENTENCES} more"] if len(said) > MOST_SENTENCES else []
        raise UserError("\n  ".join(["expected a grid of params that can run, found", *said[:MOST_SENTENCES], *more]))
    return [answer["sections"] for answer in answers]


def _first(error: str) -> str:
    """Of several errors, which are a line that counts them and a line each, the first: others may follow from it."""
    _, *each = error.splitlines()
    return each[0].strip() + (f" (and {len(each) - 1} more)" if len(each) > 1 else "") if each else error


def varying(points: Sequence[Mapping[str, str]]) -> list[str]:
    """The params in which the cells of a sweep differ, in the order of their first mention."""
    names = dict.fromkeys(name for values in points for name in values)
    return [name for name in names if len({values.get(name) for values in points}) > 1]


def _labels(points: Sequence[Point]) -> list[str]:
    """How a person tells the cells apart."""
    names = varying([point.values for point in points])
    return [", ".join(f"{name}={point.values[name]}" for name in names if name in point.values) for point in points]


def _slug(label: str) -> str:
    """A part of the name of an experiment that says something; the digest behind it makes it unique."""
    values = " ".join(part.rpartition("=")[2] for part in label.split(", "))
    slug = re.sub(r"[^A-Za-z0-9.]+|\.{2,}", "-", values)[:40].strip("-.")
    return f"-{slug}" if slug else ""


def _value(params: Any, name: str) -> Any:
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
