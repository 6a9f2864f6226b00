"""The flows `sweep` and `study`: check a grid, run its cells, collect what they found in out/sweeps/NAME/."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture
from pydantic import ValidationError

from pipelines import chosen
from pipelines.artifacts import key_of, picture, shown
from pipelines.dvc_command import DVC, reason
from pipelines.git import contents, experiments, git, snapshot
from pipelines.outcome import StageError, failed
from pipelines.process_group import GRACE_SECONDS, run_group
from pipelines.schedule import as_they_end
from pipelines.server.automations import begin
from pipelines.sweep import results
from pipelines.sweep.clone import RECORD, Project, forget_others
from pipelines.sweep.grid import Grid, covers, points, read_grids, sentence
from pipelines.sweep.places import Place, check_dask, on_dask, on_threads, run_unit
from pipelines.sweep.units import PARAMS, Unit, plan
from rsd.machine.errors import UserError

WORKSPACES, OUT = Path(".state/sweeps"), Path("out/sweeps")
NEW_FILES = ("conf", "methods")
"""Folders whose new files belong to a sweep before git knows them."""
MOST_FAILURES = 20


@dataclass(frozen=True)
class Prepared:
    """A sweep that may run."""

    name: str
    root: Path
    project: Project
    units: list[Unit]
    """Each after what it needs; those that are done among them."""
    done: dict[str, str]
    """The refs of the experiments of those that are done, by name."""
    git_remote: str | None

    @property
    def cells(self) -> list[Unit]:
        return [unit for unit in self.units if unit.cell]


def run_name() -> str:
    """What the flow goes over: `sweep weights of digits/resnet-vit: scratch, rsd; seeds 0, 1, 2`."""
    given, flow_name = runtime.flow_run.parameters, runtime.flow_run.flow_name
    root, name = Path(given.get("root") or ".").resolve(), f"{flow_name} {given['name']}"
    own = {key: given.get(key) for key in ("grid", "methods", "seeds")}
    try:
        grids = [make_grid(own)] if flow_name == "sweep" else read_named(given["name"], root)
    except UserError:  # which the flow says
        return name
    found: dict[str, Any] = covers(grids, chosen.params(root))
    return f"{name} of {chosen.words(found | {'pair': ', '.join(found['pair'])}, root.name)}"


@flow(name="sweep", flow_run_name=run_name, persist_result=False, retries=0)
def sweep(
    name: str,
    grid: list[str] | None = None,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    split: list[Literal["methods", "seeds"]] | None = None,
    targets: list[str] | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    git_remote: str | None = None,
    dvc_remote: str | None = None,
    root: str = ".",
) -> dict[str, int]:
    """Run the cells of a grid, each a DVC experiment; collect them in out/sweeps/NAME/.

    Args:
        name: of the sweep: letters, digits, dots, dashes. The same name and grid again run what is missing.
        grid: axes as `dvc exp run -S` takes them: `pair=digits/resnet-vit,mine/mixer-resnet`,
            `method.rsd.weight=0.05,0.1`. An axis with one value holds for all cells.
        methods: of every cell, in place of those in params.yaml; scratch is added.
        seeds: of every cell, in place of those in params.yaml.
        split: `methods`, `seeds`: spread these over cells of their own.
        targets: stages that a cell is brought up to date for; `evaluate` if none is given.
        jobs: cells side by side; if not given the cores divided by `compute.threads`, on Dask all of its threads.
        dask: `local` for a Dask cluster on this machine, or the address of a scheduler: `tcp://HOST:8786`.
        git_remote: name or URL of a git remote that Dask's workers clone from and push experiments to; none where they
            see this folder.
        dvc_remote: name of the DVC remote that goes with it.
        root: the project's folder.

    Returns:
        How many cells `ran`, were `done` before, `failed` or did `not run`.

    Raises:
        UserError: the grid is wrong; nothing has run.
        StageError: some cells failed; the others are done.
    """
    own = {"grid": grid, "methods": methods, "seeds": seeds, "split": split, "targets": targets}
    try:
        begin()
        ready = prepare(name, [make_grid(own)], Path(root), git_remote=git_remote, dvc_remote=dvc_remote, dask=dask)
    except UserError as error:
        return failed(error)
    return _run(ready, jobs, dask)


@flow(name="study", flow_run_name=run_name, persist_result=False, retries=0)
def study(
    name: str,
    jobs: int | None = None,
    dask: str | None = None,
    git_remote: str | None = None,
    dvc_remote: str | None = None,
    root: str = ".",
) -> dict[str, int]:
    """Run the sweep of conf/sweep/NAME.yaml; see `sweep`.

    Args:
        name: of the file in conf/sweep/.
        jobs: cells side by side; if not given the cores divided by `compute.threads`, on Dask all of its threads.
        dask: `local` for a Dask cluster on this machine, or the address of a scheduler: `tcp://HOST:8786`.
        git_remote: name or URL of a git remote that Dask's workers clone from and push experiments to; none where they
            see this folder.
        dvc_remote: name of the DVC remote that goes with it.
        root: the project's folder.

    Returns:
        How many cells `ran`, were `done` before, `failed` or did `not run`.

    Raises:
        UserError: there is no such sweep or its grid is wrong; nothing has run.
        StageError: some cells failed; the others are done.
    """
    try:
        begin()
        grids = read_named(name, Path(root))
        ready = prepare(name, grids, Path(root), git_remote=git_remote, dvc_remote=dvc_remote, dask=dask)
    except UserError as error:
        return failed(error)
    return _run(ready, jobs, dask)


def make_grid(own: Mapping[str, Any]) -> Grid:
    """A grid of what is given; `UserError` with all that is wrong with it."""
    try:
        return Grid.model_validate({name: value for name, value in own.items() if value is not None})
    except ValidationError as error:
        raise UserError(f"the grid: {sentence(error)}") from error


def read_named(name: str, root: Path) -> list[Grid]:
    """The grids of conf/sweep/NAME.yaml."""
    return read_grids(root / "conf" / "sweep" / f"{name}.yaml")


def prepare(
    name: str,
    grids: Sequence[Grid],
    root: Path,
    *,
    git_remote: str | None = None,
    dvc_remote: str | None = None,
    dask: str | None = None,
) -> Prepared:
    """Check all that can be checked before anything runs, and note what does. Raises `UserError`."""
    root = root.resolve()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or ".." in name:
        raise UserError(f"expected a sweep's name of letters, digits, dots and dashes, found {name!r}")
    if (git_remote is None) != (dvc_remote is None):
        raise UserError("expected a git remote and a DVC remote, or neither: code goes by one and results by the other")
    if git_remote is not None:
        check_without_password(root, git_remote)
    if dask is not None:
        check_dask()
    ref = f"refs/sweeps/{name}"
    baseline, commit = snapshot(root, ref, NEW_FILES)
    units, done = plan(root, name, points(grids, root / PARAMS), commit, experiments(root, git_remote))
    workspaces = WORKSPACES / name
    if git_remote is None:
        project = Project(str(root), baseline, ref, str(root / workspaces), _ask_dvc(root, "cache", "dir"), None)
        return Prepared(name, root, project, units, done, None)
    if dvc_remote not in (known := [line.split()[0] for line in _ask_dvc(root, "remote", "list").splitlines()]):
        raise UserError(f"expected a DVC remote out of {', '.join(known) or 'none'}, found {dvc_remote!r}")
    git(root, "push", "--quiet", git_remote, f"+{ref}:{ref}")
    url = git(root, "remote", "get-url", git_remote) if git_remote in git(root, "remote").split() else git_remote
    project = Project(url, baseline, ref, str(workspaces), None, dvc_remote)
    return Prepared(name, root, project, units, done, git_remote)


def check_without_password(root: Path, git_remote: str) -> None:
    """It would be among the params of the flow and of each cell, for all to see who see the server."""
    known = git_remote in git(root, "remote").split()
    url = git(root, "remote", "get-url", git_remote) if known else git_remote
    if urlsplit(url).password is not None:
        where = git_remote if known else "a URL"
        raise UserError(
            f"git_remote: expected a remote without a password, found one in {where}; leave it to git's credential "
            "helper, or use SSH"
        )


def _run(ready: Prepared, jobs: int | None, dask: str | None) -> Any:
    if jobs is not None and jobs < 1:
        return failed(UserError(f"jobs: expected at least 1, found {jobs}"))
    log = get_run_logger()
    states = {unit.name: "done" for unit in ready.units if unit.name in ready.done}
    cells = len(ready.cells)
    to_run = [unit for unit in ready.units if unit.name not in states]
    log.info("%d cells, %d to run, after %d shared parts", cells, *_counts(to_run))
    failures: list[str] = []
    if ready.git_remote is None:  # those of other machines are theirs
        forget_others(Path(ready.project.workspaces), {unit.name for unit in to_run})
    if to_run:
        local = chosen.slots(ready.root) if jobs is None else jobs
        try:
            with on_threads(local) if dask is None else on_dask(dask, local if dask == "local" else jobs) as there:
                failures = run_units(ready, there, states)
        except UserError as error:
            return failed(error)
    collect(ready)
    count = Counter(states[unit.name] for unit in ready.cells)
    log.info("%d cells: %s", cells, ", ".join(f"{number} {state}" for state, number in count.items()))
    if failures:
        more = [f"and {len(failures) - MOST_FAILURES} more"] if len(failures) > MOST_FAILURES else []
        return failed(StageError("\n".join([*failures[:MOST_FAILURES], *more])))
    if ready.git_remote is None:
        forget_others(Path(ready.project.workspaces), ())
    return dict(count)


def run_units(ready: Prepared, place: Place, states: dict[str, str], unit_task: Any = run_unit) -> list[str]:
    """Run what is not done, and go on with what does not need a failed unit; returns the sentences of the failures.

    `states` gets how each unit ended: `ran`, `failed` or `not run`; `ready.done` the refs of the experiments.
    """
    log = get_run_logger()
    units = {unit.name: unit for unit in ready.units if unit.name not in states}
    left, total = _counts(units.values())[0], len(ready.cells)
    failures: list[str] = []
    running: dict[str, PrefectFuture[Any]] = {}

    def submit(name: str) -> PrefectFuture[Any] | None:
        unit = units[name]
        if blockers := [need for need in unit.needs if need not in ready.done]:
            states[name] = "not run"
            log.warning("%s: not run, it waits for %s", unit.label, ", ".join(blockers))
            return None
        needs = {need: ready.done[need] for need in unit.needs}
        title = unit.title(ready.root.name).replace("{", "{{").replace("}", "}}")
        named = unit_task.with_options(task_run_name=title)
        parameters = {"unit": unit, "project": ready.project, "needs": needs, "stop": place.stop}
        running[name] = place.runner.submit(named, parameters)
        return running[name]

    try:
        before = {name: [need for need in unit.needs if need in units] for name, unit in units.items()}
        for name, future in as_they_end(before, place.slots, submit):
            running.pop(name, None)
            if future is not None:
                result = future.result(raise_on_failure=False)
                if future.state.is_completed():
                    states[name], ready.done[name] = "ran", str(result)
                else:
                    states[name] = "failed"
                    label = units[name].label or units[name].name
                    failures.append(
                        str(result) if isinstance(result, StageError) else f"{label}: {future.state.message}"
                    )
            del future  # see as_they_end
            left -= units[name].cell
            log.info("%s: %s; %d of %d cells left", units[name].label or name, states[name], left, total)
    except BaseException:  # a signal as well: no cell may outlive its flow
        place.stop.set()
        for future in running.values():
            future.wait(timeout=2 * GRACE_SECONDS)
        raise
    return failures


def collect(ready: Prepared) -> None:
    """Write the tables and the plot of the cells that are done, and publish them."""
    refs = {unit.name: ready.done[unit.name] for unit in ready.cells if unit.name in ready.done}
    if ready.git_remote is not None and refs:
        wanted = "".join(f"+{ref}:{ref}\n" for ref in refs.values())
        git(ready.root, "fetch", "--quiet", "--stdin", ready.git_remote, input=wanted)
    records = contents(ready.root, {name: f"{ref}:{RECORD}" for name, ref in refs.items()})
    found = [(unit.values, json.loads(records[unit.name])["students"]) for unit in ready.cells if unit.name in records]
    if not any(students for _, students in found):
        get_run_logger().warning("no table: no cell has trained a student")
        return
    folder = ready.root / OUT / ready.name
    missing = [unit.label or unit.name for unit in ready.cells if unit.name not in refs]
    text = results.write(folder, results.frame(found), missing)
    with shown("table"):
        drawn = picture((folder / "plot.svg").read_text(), f"The sweep {ready.name}")
        create_markdown_artifact(f"{drawn}\n\n{text}", key=key_of("sweep", ready.name), description="Means over seeds")


def _counts(units: Iterable[Unit]) -> tuple[int, int]:
    """How many of them are cells, and how many shared parts."""
    cells = [unit.cell for unit in units]
    return sum(cells), len(cells) - sum(cells)


def _ask_dvc(root: Path, *arguments: str) -> str:
    said: list[str] = []
    if run_group([*DVC, *arguments], root, say=said.append):
        raise UserError(f"dvc {' '.join(arguments)} failed in {root}: {reason(said)}")
    return "\n".join(said)
