"""The flow `sweep`: run the cells of a grid and collect what they found in out/sweeps/NAME/."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.futures import PrefectFuture

from pipelines import chosen
from pipelines.artifacts import key_of, picture, warn_only
from pipelines.git import contents, git
from pipelines.outcome import StageError, failed, task_result
from pipelines.schedule import as_they_end, stopped_with_the_flow
from pipelines.server.automations import begin
from pipelines.sweep import results
from pipelines.sweep.clone import RECORD, forget_others
from pipelines.sweep.grid import covers, grids_of
from pipelines.sweep.places import Place, on_dask, on_threads, run_unit
from pipelines.sweep.prepare import Prepared, prepare
from pipelines.sweep.units import Unit
from rsd.machine.errors import UserError
from rsd.run.paths import Run

MOST_FAILURES = 20


def run_name() -> str:
    """The sweep's name and what it goes over: `sweep weights of digits/resnet-vit: scratch, rsd; seeds 0, 1, 2`."""
    parameters = runtime.flow_run.parameters
    root, name = Path(parameters.get("root") or ".").resolve(), f"sweep {parameters['name']}"
    try:
        grids = grids_of(parameters["name"], {key: parameters.get(key) for key in ("grid", "methods", "seeds")}, root)
    except UserError:  # the flow ends with it
        return name
    values: dict[str, Any] = covers(grids, chosen.params(root))
    return f"{name} of {chosen.words(values | {'pair': ', '.join(values['pair'])}, root.name)}"


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

    The same name and grid again run the cells that are missing.

    Args:
        name: of the sweep: letters, digits, dots, dashes. With neither grid, methods, seeds, split nor targets, the
            sweep is that of conf/sweep/NAME.yaml.
        grid: axes as `dvc exp run -S` takes them: `pair=digits/resnet-vit,mine/mixer-resnet`,
            `method.rsd.weight=0.05,0.1`. An axis with one value holds for all cells.
        methods: of every cell, in place of those in params.yaml; scratch is added.
        seeds: of every cell, in place of those in params.yaml.
        split: `methods`, `seeds`: spread these over cells of their own.
        targets: stages that a cell brings up to date; `evaluate` if none is given.
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
        if jobs is not None and jobs < 1:
            raise UserError(f"jobs: expected at least 1, found {jobs}")
        grids = grids_of(name, own, Path(root))
        ready = prepare(name, grids, Path(root), git_remote=git_remote, dvc_remote=dvc_remote, dask=dask)
        return _run(ready, jobs, dask)
    except UserError as error:
        return failed(error)


def _run(ready: Prepared, jobs: int | None, dask: str | None) -> dict[str, int]:
    log = get_run_logger()
    states = {unit.name: "done" for unit in ready.units if unit.name in ready.done}
    to_run = [unit for unit in ready.units if unit.name not in states]
    log.info("%d cells, %d to run, after %d shared parts", len(ready.cells), *_counts(to_run))
    workspaces = Path(ready.project.workspaces) if ready.git_remote is None else None  # else they are of the workers
    if workspaces:
        forget_others(workspaces, {unit.name for unit in to_run})
    failures: list[str] = []
    if to_run:
        local = chosen.slots(ready.root) if jobs is None else jobs
        with on_threads(local) if dask is None else on_dask(dask, local if dask == "local" else jobs) as place:
            failures = run_units(ready, place, states)
    collect(ready)
    count = Counter(states[unit.name] for unit in ready.cells)
    log.info("%d cells: %s", len(ready.cells), ", ".join(f"{number} {state}" for state, number in count.items()))
    if failures:
        more = [f"and {len(failures) - MOST_FAILURES} more"] if len(failures) > MOST_FAILURES else []
        raise StageError("\n".join([*failures[:MOST_FAILURES], *more]))
    if workspaces:
        forget_others(workspaces, ())
    return dict(count)


def run_units(ready: Prepared, place: Place, states: dict[str, str], unit_task: Any = run_unit) -> list[str]:
    """Run the units that are not done. One that needs a failed unit is not run; all others are.

    `states` gets how each unit ended: `ran`, `failed` or `not run`; `ready.done` gets the refs of the experiments.
    Returns the sentences of the failures.
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
            log.warning("%s: not run, it waits for %s", unit.display_name, ", ".join(blockers))
            return None
        needs = {need: ready.done[need] for need in unit.needs}
        title = unit.title(ready.root.name).replace("{", "{{").replace("}", "}}")
        parameters = {"unit": unit, "project": ready.project, "needs": needs, "stop": place.stop}
        running[name] = place.runner.submit(unit_task.with_options(task_run_name=title), parameters)
        return running[name]

    before = {name: [need for need in unit.needs if need in units] for name, unit in units.items()}
    with stopped_with_the_flow(place.stop, running):
        for name, future in as_they_end(before, place.slots, submit):
            running.pop(name, None)
            if future is not None:
                good, text = task_result(future, units[name].display_name)
                states[name] = "ran" if good else "failed"
                if good:
                    ready.done[name] = text
                else:
                    failures.append(text)
            del future  # see as_they_end
            left -= units[name].cell
            log.info("%s: %s; %d of %d cells left", units[name].display_name, states[name], left, total)
    return failures


def collect(ready: Prepared) -> None:
    """Write the tables and the plot of the cells that are done, and publish them."""
    refs = {unit.name: ready.done[unit.name] for unit in ready.cells if unit.name in ready.done}
    if ready.git_remote is not None and refs:
        refspecs = "".join(f"+{ref}:{ref}\n" for ref in refs.values())
        git(ready.root, "fetch", "--quiet", "--stdin", ready.git_remote, input=refspecs)
    records = contents(ready.root, {name: f"{ref}:{RECORD}" for name, ref in refs.items()})
    cells = [(unit.values, json.loads(records[unit.name])["students"]) for unit in ready.cells if unit.name in records]
    if not any(students for _, students in cells):
        get_run_logger().warning("no table: no cell has trained a student")
        return
    folder = Run.of(ready.root).sweeps / ready.name
    missing = [unit.display_name for unit in ready.cells if unit.name not in refs]
    text = results.write(folder, results.frame(cells), missing)
    with warn_only("table"):
        plot = picture((folder / "plot.svg").read_text(), f"The sweep {ready.name}")
        create_markdown_artifact(f"{plot}\n\n{text}", key=key_of("sweep", ready.name), description="Means over seeds")


def _counts(units: Iterable[Unit]) -> tuple[int, int]:
    """How many of them are cells, and how many shared parts."""
    cells = [unit.cell for unit in units]
    return sum(cells), len(cells) - sum(cells)
