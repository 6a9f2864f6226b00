"""What a sweep costs beside its cells, and that a thousand cells cost a thousand times one.

    python -m benchmarks.sweep            # both figures, half an hour on two cores
    python -m benchmarks.sweep sweep      # twelve cells on 1 and 2 workers against their sum
    python -m benchmarks.sweep scale      # the simulated sweeps

`sweep` runs 12 cells (six weights of RSD, two counts of epochs; the digits, one seed) three times in a clone of this
project with an empty cache: by `dvc repro` alone, one after the other in one folder; as a sweep with one job; with two.
`scale` plans, runs and collects (table and chart) 10 to 1,000 cells that sleep for a fifth of a second, two at a time,
each size in a process of its own. It draws seconds beyond the sleep, and memory, over the cells to docs/sweep.png.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import altair as alt
import pandas as pd
import typer
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL

from benchmarks.command import command
from benchmarks.interleaved import markdown
from pipelines.dvc_command import DVC
from pipelines.git import git
from pipelines.process_group import run_group
from pipelines.server.connection import server_that_answers
from pipelines.sweep.clone import RECORD
from pipelines.sweep.flows import collect, run_units
from pipelines.sweep.grid import Grid, points
from pipelines.sweep.places import on_threads
from pipelines.sweep.prepare import prepare
from pipelines.sweep.units import PARAMS
from rsd.measure.latency import peak_memory

PROJECT = Path(__file__).parents[1]
PARTS = ["plan, s", "run, s", "collect, s"]
SIMULATE = "import json, benchmarks.sweep; print(json.dumps(benchmarks.sweep.simulated({!r}, {})))"
SIZES = (10, 100, 400, 1000)
JOBS = 2
SLEEP = 0.2
"""Seconds that a simulated cell takes."""
GRID = ["method.rsd.weight=0.03,0.05,0.1,0.2,0.3,0.5", "+override.recipe.epochs=6,8", "views.count=8"]
FIXED = ["--methods", "scratch", "rsd", "--seeds", "0"]


def clone(folder: Path) -> Path:
    """This project as it is committed, with an empty DVC cache."""
    subprocess.run(["git", "clone", "-q", str(PROJECT), str(folder)], check=True)
    return folder


def one_after_the_other(folder: Path) -> float:
    """Seconds of the twelve cells by `dvc repro evaluate`, in one folder."""
    project = clone(folder)
    grid = Grid(grid=GRID, methods=["scratch", "rsd"], seeds=[0])
    start = time.perf_counter()
    for point in points([grid], project / PARAMS):
        (project / PARAMS).write_text(point.params)
        if run_group([*DVC, "repro", "evaluate"], project, say=_shown).status:
            sys.exit("error: a cell failed; see above")
    return time.perf_counter() - start


def swept(folder: Path, jobs: int) -> float:
    """Seconds of the same cells as a sweep, after the server's start-up."""
    project = clone(folder)
    command = [sys.executable, "-m", "pipelines.sweep", *GRID, *FIXED, "--name", "twelve", "--jobs", str(jobs)]
    start = time.perf_counter()
    if run_group(command, project, say=_shown).status:
        sys.exit("error: the sweep failed; see above")
    return time.perf_counter() - start


def _shown(line: str) -> None:
    print(f"  {line}"[:160], file=sys.stderr, flush=True)


@flow(name="simulated sweep", persist_result=False)
def simulated(root: str, count: int, axis: str = "views.seed", sleep: float = SLEEP) -> dict[str, float]:
    """Plan, run and collect a sweep of `count` cells that sleep; seconds of each, and the process's peak memory in MB.

    All cells have one record. The seconds to run are those beyond the sleep. Processor time of the plan includes that
    of the process that checks the params.

    Args:
        axis: the param, a whole number, that tells the cells apart.
        sleep: seconds.
    """
    record = _record(Path(root))

    @task(cache_policy=NO_CACHE, persist_result=False)
    def asleep(unit: Any, project: Any, needs: Any, stop: Any) -> str:
        """In place of a cell."""
        time.sleep(sleep)
        return record

    start, processor = time.perf_counter(), sum(os.times()[:4])
    ready = prepare("simulated", [Grid(grid=[f"{axis}=range(0,{count})"], seeds=[0])], Path(root))
    planned, processor = time.perf_counter(), sum(os.times()[:4]) - processor
    with on_threads(JOBS) as place:
        failures = run_units(ready, place, {}, unit_task=asleep)
    assert not failures
    end_of_run = time.perf_counter()
    collect(ready)
    return {
        "cells": count,
        "plan, s": planned - start,
        "plan, CPU s": processor,
        "run, s": end_of_run - planned - math.ceil(count / JOBS) * sleep,
        "collect, s": time.perf_counter() - end_of_run,
        "peak memory, MB": (peak_memory() or 0) / 2**20,
    }


def _record(root: Path) -> str:
    """The record of an empty cell, as a tree in git."""
    students = [{"method": method, "seed": 0, "validation_top1": 90.0} for method in ("scratch", "rsd")]
    blob = git(root, "hash-object", "-w", "--stdin", input=json.dumps({"students": students}))
    return git(root, "mktree", input=f"100644 blob {blob}\t{RECORD}\n")


def scale(sizes: Sequence[int]) -> pd.DataFrame:
    """One row per size, each measured in a fresh process against one server."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, server_that_answers():
        project = clone(Path(folder) / "project")
        environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or "", "PREFECT_LOGGING_LEVEL": "ERROR"}
        for size in sizes:
            again = [sys.executable, "-c", SIMULATE.format(str(project), size)]
            output = subprocess.run(again, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, check=True).stdout
            rows.append(json.loads(output.splitlines()[-1]))
            print(rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def chart(table: pd.DataFrame) -> alt.HConcatChart:
    """Seconds and memory over the count of cells; a straight line is a constant cost per cell.

    The plan's are of the processor, which other work on the machine does not lengthen.
    """
    seconds = table.melt("cells", ["plan, CPU s", *PARTS[1:]], var_name="part", value_name="seconds")
    x = alt.X("cells:Q", title="cells", scale=alt.Scale(zero=True))
    left = alt.Chart(seconds).mark_line(point=True).encode(x=x, y="seconds:Q", color=alt.Color("part:N", title=None))
    right = alt.Chart(table.rename(columns={"peak memory, MB": "memory"})).mark_line(point=True)
    memory = right.encode(x=x, y=alt.Y("memory:Q", title="peak memory, MB", scale=alt.Scale(zero=True)))
    return alt.hconcat(left.properties(width=300, height=200), memory.properties(width=300, height=200))


def main(what: Annotated[Literal["sweep", "scale"] | None, typer.Argument()] = None) -> None:
    if what in (None, "sweep"):
        with tempfile.TemporaryDirectory() as folder, server_that_answers():
            at = Path(folder)
            alone = one_after_the_other(at / "alone")
            seconds_of = {
                "dvc repro, 12 times": alone,
                "1 worker": swept(at / "one", 1),
                "2 workers": swept(at / "two", 2),
            }
        rows = [
            {"12 cells": name, "s": f"{seconds:.0f}", "of their sum": f"{seconds / alone:.2f}"}
            for name, seconds in seconds_of.items()
        ]
        print(markdown(rows))
    if what in (None, "scale"):
        table = scale(SIZES)
        shown = table.assign(**{"ms per cell": 1000 * table[PARTS].sum(axis=1) / table["cells"]}).round(1)
        print(markdown([{str(k): str(v) for k, v in row.items()} for row in shown.to_dict("records")]))
        chart(table).save("docs/sweep.png", scale_factor=2)


if __name__ == "__main__":
    command(main, __doc__)
