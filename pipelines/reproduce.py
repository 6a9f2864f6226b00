"""`dvc repro` as a Prefect flow: one task for each stage and matrix cell of DVC's own graph.

    python -m pipelines.reproduce [STAGE ...] [--jobs N]

DVC decides what is stale, runs it, and owns every cache. Prefect shows, logs and parallelises: independent
stages run side by side, a stage marked `meta: {alone: true}` never beside another, one marked `meta: {gpu: true}`
on a GPU that no other stage has. Nothing is retried: a stage that fails is a gate that failed, or would fail again.
"""

import argparse
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Cancelled
from pydantic import Field

from pipelines import chosen
from pipelines.artifacts import publish
from pipelines.dvc_command import DVC, reason, verdict
from pipelines.dvc_graph import StageNode, stages
from pipelines.gpus import create_limits, reserved, visible_gpus
from pipelines.order import start_order
from pipelines.outcome import StageError, StageRun, check_starts, failed
from pipelines.process_group import GRACE_SECONDS, run_group
from pipelines.progress import Progress
from pipelines.server import one_sentence, server_that_answers
from pipelines.workspace import one_writer
from rsd.errors import UserError

TAIL_LINES = 200

Root = Annotated[str, Field(title="Workspace", description="Folder of the DVC project, from the worker's own")]
Targets = Annotated[
    list[str] | None,
    Field(title="Stages", description="Stages or matrix cells with all they need, such as distill@rsd-0; none: all"),
]
Jobs = Annotated[
    int | None,
    Field(title="Stages side by side", description="None: the cores, divided by the threads of a stage"),
]


def run_name() -> str:
    """What this flow is and what params.yaml chose: `reproduce digits/resnet-vit: scratch, rsd; seeds 0, 1, 2`."""
    folder = Path(runtime.flow_run.parameters.get("root", ".")).resolve()
    return f"{runtime.flow_run.flow_name} {chosen.in_words(folder)}"


@flow(name="reproduce", flow_run_name=run_name, persist_result=False, retries=0)
def reproduce(root: Root = ".", targets: Targets = None, jobs: Jobs = None) -> list[StageRun]:
    """Bring the DVC project in `root` up to date, as `dvc repro TARGETS` does, `jobs` stages at a time.

    Waits for another flow that writes to this workspace. Raises `StageError`, once everything that could run has
    run, if a stage failed; `UserError` where there is no pipeline to run.
    """
    folder = Path(root).resolve()
    slots = chosen.slots(folder) if jobs is None else jobs
    log = get_run_logger()
    try:
        check_starts()
        if slots < 1:
            raise UserError(f"jobs: expected at least 1, found {slots}")
        stages(folder, targets)  # before anyone is waited for, or a lock is written into a folder that is no project
        with one_writer(folder, name=str(runtime.flow_run.name), say=log.info) as lock:
            nodes = stages(folder, targets)  # whoever held the workspace may have changed it
            log.info("%d stages in %s, up to %d at a time", len(nodes), folder, slots)
            runs = _run_all(nodes, slots, folder, lock)
            publish(folder, runs)
    except UserError as error:
        return failed(error)
    states = Counter(run.state for run in runs)
    log.info("%d stages: %s", len(runs), ", ".join(f"{count} {state}" for state, count in states.items()))
    if failures := [run.message for run in runs if run.state == "failed"]:
        return failed(StageError("\n".join(failures)))
    return runs


def _run_all(nodes: Sequence[StageNode], jobs: int, folder: Path, lock: int) -> list[StageRun]:
    """Start each stage as soon as it may; go on with what does not depend on a failed one.

    A stage is submitted only when it can start: a task waiting inside the pool would hold a slot, and
    enough of them would leave none for the stage they wait for.
    """
    waiting = {node.address: node for node in nodes}
    before = start_order(nodes)
    futures: dict[str, PrefectFuture[Any]] = {}
    started: dict[str, float] = {}
    ended: SimpleQueue[str] = SimpleQueue()
    done: dict[str, StageRun] = {}
    stop = threading.Event()
    pair = chosen.pair(folder)

    def note_end(address: str, _: object) -> None:
        ended.put(address)

    try:
        while waiting or len(done) < len(nodes):
            for address, node in list(waiting.items()):
                if not before[address] <= done.keys():
                    continue
                if blockers := [name for name in node.upstream if not done[name].good]:
                    done[address] = StageRun(address, "not run", message=f"waits for {', '.join(blockers)}")
                elif len(futures.keys() - done.keys()) < jobs:
                    started[address] = time.monotonic()
                    upstream = [futures[name] for name in node.upstream]  # ended; Prefect draws the edges
                    named = run_stage.with_options(name=address, task_run_name=f"{address} of {pair}")
                    futures[address] = named.submit(node, folder, stop, lock, wait_for=upstream, return_state=False)
                    futures[address].add_done_callback(partial(note_end, address))
                else:
                    continue
                del waiting[address]
            if futures.keys() - done.keys():
                address = ended.get()
                seconds = round(time.monotonic() - started[address], 1)
                done[address] = _outcome(address, futures[address], seconds)
    except BaseException:  # a signal as well: no stage may outlive its flow
        stop.set()
        for future in futures.values():
            future.wait(timeout=2 * GRACE_SECONDS)
        raise
    return [done[node.address] for node in nodes]


def _outcome(address: str, future: PrefectFuture[Any], seconds: float) -> StageRun:
    result = future.result(raise_on_failure=False)
    if future.state.is_completed():
        return StageRun(address, str(result), seconds)
    message = str(result) if isinstance(result, StageError) else f"stage {address}: {future.state.message}"
    return StageRun(address, "failed", seconds, message)


@task(cache_policy=NO_CACHE, persist_result=False, retries=0)
def run_stage(node: StageNode, folder: Path, stop: threading.Event, lock: int) -> Any:
    """Let DVC run one stage if it is stale; returns `ran`, `unchanged` or `from cache`.

    `lock` is the descriptor of the workspace's lock, which the stage inherits.
    Ends as failed, with a `StageError`, when DVC or the stage does; as cancelled when `stop` is set.
    """
    log = get_run_logger()
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    progress = Progress(node.address)

    def say(line: str) -> None:
        tail.append(line)
        log.info("%s", line)
        progress.follow(line)

    command = [*DVC, "--wait-for-lock", "repro", "--single-item", node.address]
    code = 1
    try:
        with _gpus_for(node, folder, stop) as only_mine:
            if not stop.is_set():
                code = run_group(command, folder, say=say, stop=stop, hold=[lock], variables=only_mine)
    finally:
        progress.end(good=code == 0)
    if stop.is_set():
        return Cancelled(message=f"stage {node.address} was stopped")
    if code:
        return failed(StageError(f"stage {node.address} failed: {reason(tail)}"))
    state = verdict(tail)
    log.info("stage %s: %s", node.address, state)
    return state


def _gpus_for(node: StageNode, folder: Path, stop: threading.Event) -> AbstractContextManager[dict[str, str]]:
    """As many GPUs as the stage has processes; all for one that runs alone; none if it computes on the CPU."""
    compute = chosen.compute(folder)
    if not node.gpu or compute.get("device") == "cpu" or not (gpus := visible_gpus()):
        return nullcontext({})
    create_limits(gpus)
    return reserved(len(gpus) if node.alone else int(compute.get("processes") or 1), gpus, stop)


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
