"""DVC's own graph, as plain data, by DVC's internal API.

`dvc repro` plans with the same three calls as `stages` below. So the flow cannot disagree with it about which stages
there are, what they wait for, or which cells a matrix has. The contract test (`tests/pipelines/test_dvc_graph.py`)
fails when another DVC release moves them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import networkx
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import PipelineStage, Stage

from rsd.machine.errors import UserError


@dataclass(frozen=True)
class StageNode:
    """One stage or one cell of a matrix, as DVC names it."""

    address: str
    """For `dvc repro ADDRESS` in the project's folder: `distill@rsd-0`."""
    upstream: tuple[str, ...] = ()
    """Addresses of the stages whose outputs this one reads."""
    alone: bool = False
    """`meta: {alone: true}`: nothing may run beside it, as a latency benchmark needs."""
    gpu: bool = False
    """`meta: {gpu: true}`: it computes on a GPU where there is one."""
    command: str = field(default="", compare=False)
    reads: tuple[str, ...] = field(default=(), compare=False)
    """Paths from the project's folder, and params as `params.yaml:KEY`; `params.yaml:` is the whole file."""


def stages(root: Path, targets: Sequence[str] | None = None) -> list[StageNode]:
    """The stages that `dvc repro TARGETS` would go through in `root`, each after its upstream, else by name.

    A target is an address, or a stage's name for all of its matrix cells; none means all of `dvc.yaml`.
    Raises `UserError` where `root` is no DVC project, `dvc.yaml` is wrong or a target is unknown.
    """
    root = root.resolve()
    try:
        with Repo(str(root)) as repo:
            graph = get_active_graph(repo.index.graph)  # without the upstream of frozen stages, as in repro
            selected = _selected(root, list(graph), targets)
            steps = plan_repro(graph, selected) if selected else []
            # DVC's own order among stages that do not need each other changes from process to process.
            forwards = graph.subgraph(steps).reverse(copy=False)
            ordered = networkx.lexicographical_topological_sort(forwards, key=lambda stage: _address(root, stage))
            return [
                StageNode(
                    address=_address(root, stage),
                    upstream=tuple(sorted(_address(root, other) for other in graph.successors(stage))),
                    alone=_marked(stage, "alone"),
                    gpu=_marked(stage, "gpu"),
                    command=str(stage.cmd or ""),
                    reads=_reads(root, stage),
                )
                for stage in ordered
            ]
    except DvcException as error:
        raise UserError(f"DVC cannot read the pipeline in {root}: {error}") from error


def needs_graph(nodes: Iterable[StageNode]) -> networkx.DiGraph:
    """The addresses, with an edge from each to every address that needs it."""
    return networkx.DiGraph({node.address: node.upstream for node in nodes}).reverse()


def cache_and_remotes(root: Path) -> tuple[str, list[str]]:
    """The folder of the project's cache, and the names of its remotes."""
    with Repo(str(root)) as repo:
        return repo.cache.local_cache_dir, list(repo.config["remote"])


def _selected(root: Path, all_stages: list[Stage], targets: Sequence[str] | None) -> list[Stage]:
    if not targets:
        return [stage for stage in all_stages if Path(stage.path) == root / "dvc.yaml"]
    named: dict[str, list[Stage]] = {}
    for stage in all_stages:
        address = _address(root, stage)
        named.setdefault(address, []).append(stage)
        if "@" in address:
            named.setdefault(address.partition("@")[0], []).append(stage)
    if unknown := sorted(set(targets) - named.keys()):
        raise UserError(f"no stage named {', '.join(unknown)}; there are {', '.join(sorted(named))}")
    return [stage for target in targets for stage in named[target]]


def _address(root: Path, stage: Stage) -> str:
    # DVC's own `addressing` is relative to the current folder; the flow may have been started in another.
    path = Path(stage.path).relative_to(root).as_posix()
    if not isinstance(stage, PipelineStage):
        return path
    return str(stage.name) if path == "dvc.yaml" else f"{path}:{stage.name}"


def _reads(root: Path, stage: Stage) -> tuple[str, ...]:
    read = []
    for dep in stage.deps:
        path = Path(dep.fs_path).relative_to(root).as_posix() if dep.protocol == "local" else str(dep.def_path)
        if isinstance(dep, ParamsDependency):
            read += [f"{path}:{key}" for key in dep.params or [""]]
        else:
            read.append(path)
    return tuple(read)


def _marked(stage: Stage, mark: str) -> bool:
    return isinstance(stage.meta, dict) and stage.meta.get(mark) is True
