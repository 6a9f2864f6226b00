"""`dvc repro` as a Prefect flow: one task for each stage and matrix cell of DVC's own graph.

    python -m pipelines.reproduce [STAGE ...] [--jobs N]

DVC decides what is stale, runs it, and owns every cache. Prefect shows, logs and parallelises: independent
stages run side by side, a stage marked `meta: {alone: true}` never beside another.
"""

import argparse
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Cancelled

from pipelines.artifacts import publish
from pipelines.dvc_command import DVC, reason, verdict
from pipelines.dvc_graph import StageNode, stages
from pipelines.order import start_order
from pipelines.outcome import StageError, StageRun, failed
from pipelines.process_group import GRACE_SECONDS, run_group
from pipelines.server import one_sentence, server_that_answers
from rsd.device import cores
from rsd.errors import UserError

TAIL_LINES = 200


@flow(name="reproduce", persist_result=False, retries=0)
def reproduce(root: str = ".", targets: list[str] | None = None, jobs: int | None = None) -> list[StageRun]:
    """Bring the DVC project in `root` up to date, as `dvc repro TARGETS` does, `jobs` stages at a time.

    `jobs` defaults to the cores this process may use, divided by the threads of a stage.
    Raises `StageError`, once everything that could run has run, if a stage failed; `UserError` where
    there is no pipeline to run.
    """
    folder = Path(root).resolve()
    slots = _slots(folder) if jobs is None else jobs
    try:
        if slots < 1:
            raise UserError(f"jobs: expected at least 1, found {slots}")
        nodes = stages(folder, targets)
    except UserError as error:
        return failed(error)
    log = get_run_logger()
    log.info("%d stages in %s, up to %d at a time", len(nodes), folder, slots)
    runs = _run_all(nodes, slots, folder)
    publish(folder, runs)
    states = Counter(run.state for run in runs)
    log.info("%d stages: %s", len(runs), ", ".join(f"{count} {state}" for state, count in states.items()))
    if failures := [run.message for run in runs if run.state == "failed"]:
        return failed(StageError("\n".join(failures)))
    return runs


def _run_all(nodes: Sequence[StageNode], jobs: int, folder: Path) -> list[StageRun]:
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
                    futures[address] = run_stage.with_options(name=address, task_run_name=address).submit(
                        address, folder, stop, wait_for=upstream, return_state=False
                    )
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
def run_stage(address: str, folder: Path, stop: threading.Event) -> Any:
    """Let DVC run one stage if it is stale; returns `ran`, `unchanged` or `from cache`.

    Ends as failed, with a `StageError`, when DVC or the stage does; as cancelled when `stop` is set.
    """
    log = get_run_logger()
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def say(line: str) -> None:
        tail.append(line)
        log.info("%s", line)

    code = run_group([*DVC, "--wait-for-lock", "repro", "--single-item", address], folder, say=say, stop=stop)
    if stop.is_set():
        return Cancelled(message=f"stage {address} was stopped")
    if code:
        return failed(StageError(f"stage {address} failed: {reason(tail)}"))
    state = verdict(tail)
    log.info("stage %s: %s", address, state)
    return state


def _slots(folder: Path) -> int:
    """How many stages fit on the cores: each computes with `compute.threads` of params.yaml, 1 if it says none."""
    params = folder / "params.yaml"
    content = yaml.safe_load(params.read_text()) if params.is_file() else None
    compute = content.get("compute") if isinstance(content, dict) else None
    threads = compute.get("threads") if isinstance(compute, dict) else None
    return max(1, cores() // threads) if isinstance(threads, int) and threads > 0 else cores()


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
