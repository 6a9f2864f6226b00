"""`dvc repro` as a Prefect flow: one task for each stage and matrix cell of DVC's own graph.

    python -m pipelines.reproduce [STAGE ...] [--jobs N]

DVC decides what is stale, runs it, and owns every cache. Prefect shows, logs and parallelises. Independent stages run
side by side; a stage marked `meta: {alone: true}` never runs beside another; a stage marked `meta: {gpu: true}` runs on
a GPU that no other stage has. Nothing is retried: a stage that fails is a gate that failed, or would fail again.
"""

import argparse
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Cancelled

from pipelines import chosen
from pipelines.artifacts import publish
from pipelines.dvc_command import reason, run_dvc, verdict
from pipelines.dvc_graph import StageNode, stages
from pipelines.gpus import gpus_for
from pipelines.outcome import StageError, StageRun, failed, task_result
from pipelines.progress import ProgressArtifact
from pipelines.schedule import as_they_end, start_order, stopped_with_the_flow
from pipelines.server.automations import begin
from pipelines.server.connection import one_sentence, server_that_answers
from pipelines.workspace import one_writer
from rsd.machine.errors import UserError


def run_name() -> str:
    """The flow's name and what params.yaml chose: `reproduce digits/resnet-vit: scratch, rsd; seeds 0, 1, 2`."""
    folder = Path(runtime.flow_run.parameters.get("root", ".")).resolve()
    return f"{runtime.flow_run.flow_name} {chosen.in_words(folder)}"


@flow(name="reproduce", flow_run_name=run_name, persist_result=False, retries=0)
def reproduce(root: str = ".", targets: list[str] | None = None, jobs: int | None = None) -> list[StageRun]:
    """Bring a DVC project up to date, as `dvc repro TARGETS` does, several stages at a time.

    Waits for another flow that writes to this workspace.

    Args:
        root: folder of the project, from the worker's workspace.
        targets: stages, or matrix cells such as distill@rsd-0, with all that they need; none: all.
        jobs: stages side by side; none: the cores, divided by the threads of a stage.

    Raises:
        StageError: a stage failed, and everything that could run has run.
        UserError: there is no pipeline to run.
    """
    folder = Path(root).resolve()
    slots = chosen.slots(folder) if jobs is None else jobs
    log = get_run_logger()
    try:
        begin()
        if slots < 1:
            raise UserError(f"jobs: expected at least 1, found {slots}")
        stages(folder, targets)  # before anyone is waited for, or a lock is written into a folder that is no project
        with one_writer(folder, name=str(runtime.flow_run.name), say=log.info) as lock:
            nodes = stages(folder, targets)  # whoever held the workspace may have changed it
            log.info("%d stages in %s, up to %d at a time", len(nodes), folder, slots)
            runs = run_all(nodes, slots, folder, lock)
            publish(folder, runs)
    except UserError as error:
        return failed(error)
    states = Counter(run.state for run in runs)
    log.info("%d stages: %s", len(runs), ", ".join(f"{count} {state}" for state, count in states.items()))
    if failures := [run.message for run in runs if run.state == "failed"]:
        return failed(StageError("\n".join(failures)))
    return runs


def run_all(nodes: Sequence[StageNode], jobs: int, folder: Path, lock: int, *, force: bool = False) -> list[StageRun]:
    """Start each stage as soon as it may. A stage that depends on a failed one is not run; all others are.

    `lock` is the descriptor of the workspace's lock. With `force`, stages run that are not stale, too.
    """
    by_address = {node.address: node for node in nodes}
    futures: dict[str, PrefectFuture[Any]] = {}
    started: dict[str, float] = {}
    ends: dict[str, StageRun] = {}
    stop = threading.Event()
    pair = chosen.pair(folder)

    def submit(address: str) -> PrefectFuture[Any] | None:
        node = by_address[address]
        if blockers := [name for name in node.upstream if not ends[name].good]:
            ends[address] = StageRun(address, "not run", message=f"waits for {', '.join(blockers)}")
            return None
        started[address] = time.monotonic()
        upstream = [futures[name] for name in node.upstream]  # ended; Prefect draws the edges
        named = run_stage.with_options(name=address, task_run_name=f"{address} of {pair}")
        futures[address] = named.submit(node, folder, stop, lock, force, wait_for=upstream, return_state=False)
        return futures[address]

    with stopped_with_the_flow(stop, futures):
        for address, future in as_they_end(start_order(nodes), lambda: jobs, submit):
            if future is not None:
                good, text = task_result(future, f"stage {address}")
                seconds = round(time.monotonic() - started[address], 1)
                ends[address] = StageRun(address, text if good else "failed", seconds, "" if good else text)
    return [ends[node.address] for node in nodes]


@task(cache_policy=NO_CACHE, persist_result=False, retries=0)
def run_stage(node: StageNode, folder: Path, stop: threading.Event, lock: int, force: bool = False) -> Any:
    """Let DVC run one stage if it is stale, or in any case with `force`; returns `ran`, `unchanged` or `from cache`.

    `lock` is the descriptor of the workspace's lock, which the stage inherits.
    Ends as failed, with a `StageError`, when DVC or the stage fails; as cancelled when `stop` is set.
    """
    log = get_run_logger()
    progress = ProgressArtifact(node.address)
    command = ["--wait-for-lock", "repro", "--single-item", *["--force"] * force, node.address]
    ended = None
    try:
        compute = chosen.compute(folder) if node.gpu else {"device": "cpu"}
        with gpus_for(compute, stop, progress.say, alone=node.alone) as variables:
            if not stop.is_set():
                ended = run_dvc(command, folder, say=progress.say, stop=stop, hold=[lock], variables=variables)
    finally:
        progress.end(good=ended is not None and ended.status == 0)
    if stop.is_set() or ended is None:
        return Cancelled(message=f"stage {node.address} was stopped")
    if ended.status:
        return failed(StageError(f"stage {node.address} failed: {reason(ended.lines)}"))
    state = verdict(ended.lines)
    log.info("stage %s: %s", node.address, state)
    return state


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the flow in this folder; a failure's last line is its sentence, and the exit status is 1."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.reproduce", description=(__doc__ or "").strip().splitlines()[0]
    )
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages or matrix cells; default: all")
    parser.add_argument("--jobs", type=int, help="stages side by side; default: one for each core")
    options = parser.parse_args(arguments)
    with one_sentence():
        stages(Path(), options.targets)  # a wrong name is answered now, not after the server's start-up
        with server_that_answers():
            reproduce(targets=options.targets or None, jobs=options.jobs)


if __name__ == "__main__":
    main()
