"""`dvc repro` as a Prefect flow: one task for each stage and matrix cell of DVC's own graph.

    python -m pipelines.reproduce [STAGE ...] [--jobs N]

DVC decides what is stale, runs it, and owns every cache. Prefect shows, logs and parallelises: independent
stages run side by side, a stage marked `meta: {alone: true}` never beside another.
"""

import argparse
import logging
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextvars import copy_context
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml
from prefect import flow, get_client, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.states import Cancelled, Failed

from pipelines.dvc_graph import StageNode, stages
from pipelines.process_group import GRACE_SECONDS, run_group
from rsd.device import cores
from rsd.errors import UserError

DVC = [sys.executable, "-P", "-m", "dvc"]  # this interpreter's DVC; -P keeps the project off its import path
REPORT = Path("out/report.html")
TEMPORARY_SERVER = {
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,  # 10 to 30 s are usual on a busy machine
    PREFECT_SERVER_ANALYTICS_ENABLED: False,  # its first heartbeat meets a locked database, with a traceback
}
"""Used where the user's own settings say nothing."""
TAIL_LINES = 200


class StageError(UserError):
    """The stage's address and its own sentence."""


@dataclass(frozen=True)
class StageRun:
    """How one stage ended."""

    stage: str
    state: str
    """ran | unchanged | from cache | failed | not run"""
    seconds: float = 0.0
    message: str = ""

    @property
    def good(self) -> bool:
        return self.state not in ("failed", "not run")


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
        return _failed(error)
    log = get_run_logger()
    log.info("%d stages in %s, up to %d at a time", len(nodes), folder, slots)
    runs = _run_all(nodes, slots, folder)
    publish(folder, runs)
    states = Counter(run.state for run in runs)
    log.info("%d stages: %s", len(runs), ", ".join(f"{count} {state}" for state, count in states.items()))
    if failures := [run.message for run in runs if run.state == "failed"]:
        return _failed(StageError("\n".join(failures)))
    return runs


def _failed(error: UserError) -> Any:
    """A state to return from a flow or task, which then raises `error` for its caller.

    Raised inside, it would be logged with a traceback through Prefect that says nothing more.
    """
    return Failed(message=str(error), data=error)


def start_order(nodes: Sequence[StageNode]) -> dict[str, set[str]]:
    """For each address, the addresses that must have ended before it may start.

    Those are its upstream; for a stage that runs alone, everything but its descendants as well. Its
    descendants wait for it anyway, so nothing is left that could run beside it.
    """
    before = {node.address: set(node.upstream) for node in nodes}
    for node in reversed(nodes):
        if node.alone:
            # Counted anew for each: of two such stages the later now waits for the earlier.
            before[node.address] |= before.keys() - _descendants(before, node.address) - {node.address}
    return before


def _descendants(before: dict[str, set[str]], address: str) -> set[str]:
    found: set[str] = set()
    edge = {address}
    while edge:
        edge = {later for later, earlier in before.items() if earlier & edge} - found
        found |= edge
    return found


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
        return _failed(StageError(f"stage {address} failed: {reason(tail)}"))
    state = _dvc_verdict(tail)
    log.info("stage %s: %s", address, state)
    return state


def _dvc_verdict(lines: Iterable[str]) -> str:
    for line in lines:
        if line.endswith("didn't change, skipping"):
            return "unchanged"
        if "is cached - skipping run" in line:
            return "from cache"
    return "ran"


def reason(lines: Iterable[str]) -> str:
    """What the stage itself said: its `error: ...` sentence, else its last line before DVC's verdict."""
    said: list[str] = []
    verdict = ""
    for line in lines:
        if line.startswith("ERROR: "):
            verdict = line.removeprefix("ERROR: ")
        elif not verdict:
            said.append(line)
    for number in reversed(range(len(said))):
        if said[number].startswith("error: "):  # and what follows: a list of several errors is one message
            return "\n".join(said[number:]).removeprefix("error: ")
    last = next((line for line in reversed(said) if not line.startswith(("> ", "Running stage "))), "")
    return " - ".join(part for part in (last, verdict) if part) or "it said nothing"


def publish(folder: Path, runs: Sequence[StageRun]) -> None:
    """Publish the table of stages, the metrics DVC knows and the path of the report as Prefect artifacts."""
    create_table_artifact([asdict(run) for run in runs], key="stages", description="How each stage ended")
    metrics: list[str] = []
    if run_group([*DVC, "metrics", "show", "--md"], folder, say=metrics.append):
        get_run_logger().warning("no metrics artifact: %s", reason(metrics))
    else:
        create_markdown_artifact("\n".join(metrics), key="metrics", description="`dvc metrics show`")
    report = folder / REPORT
    if report.exists():
        create_link_artifact(report.as_uri(), link_text=str(report), key="report", description="The report")


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
    try:
        stages(Path(), options.targets)  # a wrong name is answered now, not after the server's start-up
        # `kill` and `docker stop` end the stages in order, as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with temporary_settings(set_defaults=TEMPORARY_SERVER):
            _start_server()
            reproduce(targets=options.targets or None, jobs=options.jobs)
    except UserError as error:
        _silence_farewells()
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        _silence_farewells()
        sys.exit("error: stopped; run the same command again to continue")


def _start_server() -> None:
    """Start the temporary server, if the user has set none, deaf to Ctrl-C; `UserError` if none answers.

    A terminal sends Ctrl-C to the server too. Without it Prefect would try for minutes to say that the flow
    was stopped. A signal mask belongs to a thread and is inherited by what the thread starts.
    """

    problem: list[Exception] = []

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with get_client(sync_client=True) as client:
                if error := client.api_healthcheck():
                    problem.append(error)
        except Exception as error:  # a server that did not start in time, a setting it refuses ...
            problem.append(error)

    thread = threading.Thread(target=copy_context().run, args=[start], daemon=True)
    thread.start()
    thread.join()
    if problem:
        where = PREFECT_API_URL.value() or "a temporary one"
        raise UserError(f"no answer from the Prefect server ({where}): {problem[0]}; see PREFECT_API_URL")


def _silence_farewells() -> None:
    """Prefect says good-bye to its temporary server at exit; the sentence for the user comes last."""
    logging.getLogger("prefect").setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
