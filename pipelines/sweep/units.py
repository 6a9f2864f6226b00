"""From the cells of a grid to units of work: what each runs, what several cells share, what is done.

`dvc exp run --queue` would train a shared teacher in each cell that starts before the first has ended, and would go
through all cells again to find which are done.
"""

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

import networkx
from dvc.utils.serialize import parse_yaml

from pipelines import chosen
from pipelines.dvc_graph import StageNode, needs_graph, stages
from pipelines.git import objects
from pipelines.sweep.grid import GridPoint
from rsd.machine.errors import UserError
from rsd.run.paths import Run

PARAMS, RESOLVED = "params.yaml", str(Run().params)
MOST_FAULTS = 10


@dataclass(frozen=True)
class Unit:
    """The work of one clone: bring `targets` up to date under `params`, and save that as an experiment."""

    name: str
    """Of its experiment. It ends in a digest of everything in the project that the result depends on."""
    label: str
    """For people; empty if all cells are alike."""
    params: str
    """The content of params.yaml."""
    targets: tuple[str, ...]
    values: dict[str, str]
    """The params that the cell sets, by name."""
    needs: tuple[str, ...]
    """The units that run the stages which this one shares with others."""
    shared: tuple[str, ...]
    """The addresses of those stages."""
    cell: bool = True
    """Else it runs stages that cells share."""

    @property
    def display_name(self) -> str:
        return self.label or self.name

    def title(self, otherwise: str) -> str:
        """Of its task: `LABEL of PAIR: METHODS; SEEDS`, for shared stages `LABEL of PAIR`; `otherwise` for no pair."""
        values = parse_yaml(self.params, PARAMS)
        values = values if isinstance(values, dict) else {}
        what = chosen.words(values if self.cell else {"pair": values.get("pair")}, otherwise)
        return f"{self.label} of {what}" if self.label else what


@dataclass(frozen=True)
class CellGraph:
    """A cell of the grid with its part of DVC's graph."""

    point: GridPoint
    keys: dict[str, str]
    """A digest for each stage, by address in the order of the graph. Equal digests in two cells: the same work."""
    graph: networkx.DiGraph
    """Of `needs_graph`."""

    def closure(self, targets: Iterable[str]) -> set[str]:
        """These addresses, with all that they need."""
        return {name for target in targets for name in (target, *networkx.ancestors(self.graph, target))}


def units_of(
    root: Path, sweep: str, points: Sequence[GridPoint], commit: str, existing: Mapping[str, str]
) -> tuple[list[Unit], dict[str, str]]:
    """The units of a sweep over the project's `commit`, each after its needs, and the refs of those that are done.

    A unit is done if the name of one of the `existing` experiments (refs by name), of any sweep, ends in its digest.
    Stages that several cells share are units of their own, so that a teacher, its views and the scratch twins are
    trained once, however many cells run side by side. Only speed depends on it: DVC decides in every cell what is
    stale.

    Raises:
        UserError: params that the project refuses, or a target that is no stage.
    """
    cells = _cells(root, points, commit)
    by_digest = {name.rpartition("-")[2]: (name, ref) for name, ref in existing.items()}
    done: dict[str, str] = {}

    def name(label: str, digest: str) -> str:
        known, ref = by_digest.get(digest, (f"{sweep}{_slug(label)}-{digest}", None))
        if ref is not None:
            done[known] = ref
        return known

    owners: dict[str, str] = {}
    units = _shared_units(cells, owners, name)
    for label, cell in zip(_labels(points), cells, strict=True):
        needs, shared = _needs(cell, cell.keys, owners)
        point = cell.point
        digest = _digest([*cell.keys.values(), sorted(point.values.items())])
        units.append(Unit(name(label, digest), label, point.params, point.targets, point.values, needs, shared))
    by_name = {unit.name: unit for unit in units}
    needed = {unit.name for unit in units if unit.cell}
    waiting = [unit.name for unit in units if unit.cell and unit.name not in done]
    while waiting:  # of the shared units, those that unfinished cells need
        needs = by_name[waiting.pop()].needs
        waiting += [name for name in needs if name not in needed and name not in done]
        needed.update(needs)
    return [unit for unit in units if unit.name in needed], done


def _shared_units(cells: Sequence[CellGraph], owners: dict[str, str], named: Callable[[str, str], str]) -> list[Unit]:
    """Units for the stages that more than one cell needs, in order; `owners` gets the unit that runs each, by digest.

    Stages before the matrix are one unit. Each shared cell of the matrix is a unit, so that they run side by side.
    """
    count = Counter(key for cell in cells for key in {*cell.keys.values()})
    units: dict[str, Unit] = {}
    for cell in cells:
        fresh = [address for address, key in cell.keys.items() if count[key] > 1 and key not in owners]
        if not fresh:
            continue
        before = [address for address in fresh if not any("@" in name for name in cell.closure([address]))]
        inner = {name for address in before for name in cell.graph.predecessors(address)}
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


def _needs(
    cell: CellGraph, addresses: Iterable[str], owners: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The units that run some of these stages, and which of them."""
    shared = tuple(sorted(address for address in addresses if cell.keys.get(address) in owners))
    return tuple(sorted({owners[cell.keys[address]] for address in shared})), shared


def _cells(root: Path, points: Sequence[GridPoint], commit: str) -> list[CellGraph]:
    sections = _sections(root, points)
    dvc_yaml = (root / "dvc.yaml").read_text() if (root / "dvc.yaml").is_file() else ""
    # The params that dvc.yaml names decide which stages there are; the graph is loaded once for each choice of them.
    templated = sorted({name for name in re.findall(r"\$\{\s*([\w.]+)", dvc_yaml) if name.split(".")[0] != "item"})
    loaded: dict[str, list[StageNode]] = {}
    cells = []
    ids: dict[str, str] = {}
    for point, resolved in zip(points, sections, strict=True):
        params = parse_yaml(point.params, PARAMS)
        shape = json.dumps([[_value(params, name) for name in templated], point.targets])
        if shape not in loaded:
            loaded[shape] = _stages(dvc_yaml, point)
            ids |= objects(root, commit, {path for node in loaded[shape] for path in node.reads if ":" not in path})
        nodes = loaded[shape]
        keys = _keys(nodes, ids, params, resolved)
        cells.append(CellGraph(point, keys, needs_graph(nodes)))
    return cells


def _stages(dvc_yaml: str, point: GridPoint) -> list[StageNode]:
    """The stages as DVC sees them under the cell's params, in a project that has only those."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        (scratch / ".dvc").mkdir()
        (scratch / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
        (scratch / "dvc.yaml").write_text(dvc_yaml)
        (scratch / PARAMS).write_text(point.params)
        return stages(scratch, point.targets)


def _keys(
    nodes: Sequence[StageNode], ids: Mapping[str, str], params: Any, resolved: Mapping[str, str] | None
) -> dict[str, str]:
    """A digest for each stage of everything that it depends on: its command, code, params, and the stages before it.

    `resolved` are the digests of the files below `RESOLVED`. The stage that writes them reads all params and is left
    out: the other stages depend on the files that they read, not on it.
    """
    everything = _digest(params)
    keys: dict[str, str] = {}
    for node in nodes:
        if resolved is not None and f"{PARAMS}:" in node.reads:
            continue
        inputs = [node.address, node.command]
        for path in node.reads:
            if path.startswith(f"{PARAMS}:"):
                name = path.partition(":")[2]
                digest = _digest(_value(params, name)) if name else everything
            elif resolved is not None and (path == RESOLVED or path.startswith(f"{RESOLVED}/")):
                section = path.removeprefix(f"{RESOLVED}/").partition(":")[0]  # of a file, all keys count
                digest = resolved.get(section, everything)
            else:
                digest = ids.get(path, "")
            inputs.append(f"{path} {digest}")
        keys[node.address] = _digest([*inputs, *(keys[name] for name in node.upstream if name in keys)])
    return keys


def _sections(root: Path, points: Sequence[GridPoint]) -> list[dict[str, str] | None]:
    """The digests of each cell's resolved params, by file; None in a project without the conf/ that resolves them."""
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
        raise UserError(f"the params could not be checked: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong: dict[str, str] = {}
    for label, answer in zip(_labels(points), answers, strict=True):
        if "error" in answer:
            wrong.setdefault(answer["error"], label)
    if wrong:
        faults = [f"{label or 'all cells'}: {_first(error)}" for error, label in wrong.items()]
        more = [f"and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        raise UserError("\n  ".join(["expected a grid of params that can run, found", *faults[:MOST_FAULTS], *more]))
    return [answer["sections"] for answer in answers]


def _first(error: str) -> str:
    """The first of several errors, which may cause the others. They are a line that counts them, and a line each."""
    _, *each = error.splitlines()
    return each[0].strip() + (f" (and {len(each) - 1} more)" if len(each) > 1 else "") if each else error


def varying(points: Sequence[Mapping[str, str]]) -> list[str]:
    """The params in which the cells of a sweep differ, in the order of their first mention."""
    names = dict.fromkeys(name for values in points for name in values)
    return [name for name in names if len({values.get(name) for values in points}) > 1]


def _labels(points: Sequence[GridPoint]) -> list[str]:
    """The params in which each cell differs from others, for people."""
    names = varying([point.values for point in points])
    return [", ".join(f"{name}={point.values[name]}" for name in names if name in point.values) for point in points]


def _slug(label: str) -> str:
    """The readable part of an experiment's name; the digest behind it makes the name unique."""
    values = " ".join(part.rpartition("=")[2] for part in label.split(", "))
    slug = re.sub(r"[^A-Za-z0-9.]+|\.{2,}", "-", values)[:40].strip("-.")
    return f"-{slug}" if slug else ""


def _value(params: Any, name: str) -> Any:
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
