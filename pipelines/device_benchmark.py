"""Time the shipped files on a schedule: a table that grows, a plot of the trend, an alert when they get slower.

    python -m pipelines.device_benchmark

The stages that run alone are run again, stale or not. Their record goes to `history/latency.csv` of the workspace,
which neither DVC nor `make clean` touches. A row that is slower than usual by more than the margin fails the run with a
sentence, emits the event `rsd.latency.regression` for automations, and sends a message through a notification block if
one is named. A noisy row is marked as noisy; it is neither judged nor used to judge others.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.tasks import exponential_backoff
from pydantic import Field

from pipelines import chosen
from pipelines.artifacts import key_of, picture, warn_only
from pipelines.dvc_graph import stages
from pipelines.git import git
from pipelines.outcome import failed
from pipelines.reproduce import reproduce, run_all, run_name
from pipelines.server.automations import begin
from pipelines.server.connection import one_sentence, server_that_answers
from pipelines.workspace import one_writer
from rsd.machine.errors import UserError
from rsd.machine.files import written_aside
from rsd.machine.fingerprint import cores
from rsd.run.paths import Run
from rsd.run.snapshot import snapshot

if TYPE_CHECKING:
    from rsd.measure.budget.records import TrainedStudent

HISTORY = Path("history")
BUSY_LOAD = 0.5
"""Load per core above which a benchmark waits."""


class SlowerError(UserError):
    """A shipped file has become slower than it was."""


@flow(name="device-benchmark", flow_run_name=run_name, persist_result=False, retries=0)
def device_benchmark(root: str = ".", margin: Annotated[float, Field(gt=0)] = 0.1, notify: str | None = None) -> Any:
    """Time the shipped files on this machine and compare them with their usual latency.

    Args:
        root: folder of the project, from the worker's workspace.
        margin: alert where a median is slower than usual by more than this share; 0.1 is a tenth.
        notify: TYPE/NAME of a notification block for the alert, such as slack-webhook/fleet.

    Returns:
        A sentence on the result.

    Raises:
        SlowerError: a row is slower than usual.
        UserError: a stage failed, or there is no such block.
    """
    folder = Path(root).resolve()
    log = get_run_logger()
    try:
        begin()
        if notify is not None:
            _block(notify)  # a wrong name is refused now, not at the first alert
        with one_writer(folder, name=str(runtime.flow_run.name), say=log.info) as lock:
            stages_alone = [node for node in stages(folder) if node.alone]
            if not stages_alone:
                raise UserError(f"expected a stage with `meta: {{alone: true}}` in {folder}/dvc.yaml, found none")
            just_ran = {
                run.stage
                for run in reproduce(root=root, targets=[node.address for node in stages_alone])
                if run.state == "ran"
            }
            # Their upstream is up to date.
            again = [replace(node, upstream=()) for node in stages_alone if node.address not in just_ran]
            quiet.submit().wait()
            if failures := [run.message for run in run_all(again, 1, folder, lock, force=True) if not run.good]:
                raise UserError("\n".join(failures))
            summary, slower = record(folder, margin)
    except UserError as error:
        return failed(error)
    log.info("%s", summary)
    if slower:
        alert(slower, folder, notify)
        return failed(SlowerError("\n".join(slower)))
    return summary


@task(cache_policy=NO_CACHE, retries=4, retry_delay_seconds=exponential_backoff(15))
def quiet() -> None:
    """Fail, and be tried again, while the machine is busy. After four minutes the benchmark runs in any case."""
    load = os.getloadavg()[0] / cores()
    if load > BUSY_LOAD:
        raise UserError(f"expected a load of at most {BUSY_LOAD:g} per core, found {load:.2f}")


def record(folder: Path, margin: float) -> tuple[str, list[str]]:
    """Add the newest record to the history and publish it; returns a summary, and a sentence for each slower row."""
    from rsd.measure.budget.records import shipped_student
    from rsd.report import trend  # late: the import takes seconds, which a run that fails early saves
    from rsd.report.charts.style import svg

    run = Run.of(folder)
    points = trend.points(
        run.latency(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        model=_architecture(shipped_student(snapshot(run))),
        revision=git(folder, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"),
    )
    if not points:
        raise UserError(f"expected a measured row at batch 1 in {run.benchmark_folder}, found none")
    everything = trend.append(folder / HISTORY / "latency.csv", points)
    judged = trend.judge(everything)
    plot = svg(trend.chart([point for point in everything if point.device == points[0].device]))
    with written_aside(folder / HISTORY / "latency.svg") as aside:
        aside.write_text(plot)
    with warn_only("trend"):
        create_table_artifact([_row(one) for one in judged], key="latency-now", description="Against what is usual")
        create_markdown_artifact(picture(plot, "trend"), key="latency-trend", description="p50 at batch 1 over time")
    slower = trend.slower(judged, margin)
    noisy = [one for one in judged if one.point.noisy]
    new = [one for one in judged if one.usual_ms is None and not one.point.noisy]
    words = [f"{len(judged)} rows on {points[0].device}: {len(slower)} slower than usual by more than {margin:.0%}"]
    words += [f"{len(noisy)} noisy and not judged; measure again on a quiet machine"] if noisy else []
    words += [f"{len(new)} with fewer than {trend.LEAST} quiet runs before, and not judged"] if new else []
    return "; ".join(words), [_sentence(one, margin) for one in slower]


def alert(sentences: Sequence[str], folder: Path, notify: str | None) -> None:
    """Tell automations by an event, and people by the block `notify`. A failure to do so is a warning."""
    body = "\n".join(sentences)
    with warn_only("event"):
        emit_event(
            "rsd.latency.regression",
            resource={"prefect.resource.id": f"rsd.workspace.{key_of(folder.name)}"},
            payload={"sentences": list(sentences), "flow_run": runtime.flow_run.name},
        )
    with warn_only("notification"):
        if notify is not None:
            _block(notify).notify(body, subject=f"{chosen.pair(folder)} has become slower")  # type: ignore[unused-coroutine]


def _architecture(student: "TrainedStudent | None") -> str:
    if student is None:
        return ""
    arguments = json.dumps([student.args, student.image, student.classes], sort_keys=True)
    return f"{student.model}-{hashlib.sha256(arguments.encode()).hexdigest()[:8]}"


def _block(name: str) -> NotificationBlock:
    try:
        block = Block.load(name, _sync=True)  # type: ignore[call-arg]
    except ValueError as error:
        raise UserError(
            f"expected a notification block {name} (TYPE/NAME), found none; create it, or leave it out"
        ) from error
    if not isinstance(block, NotificationBlock):
        raise UserError(f"expected a block that notifies, found {name}; see `prefect block type ls`")
    return block


def _row(one: Any) -> dict[str, Any]:
    point = one.point
    verdict = "noisy" if point.noisy else "new" if one.change is None else f"{one.change:+.1%}"
    usual = None if one.usual_ms is None else round(one.usual_ms, 4)
    runs_on = point.runtime + (f", {point.threads} threads" if point.threads else "")
    return {"file": point.precision, "runs on": runs_on, "p50, ms": point.p50_ms, "usual, ms": usual, "change": verdict}


def _sentence(one: Any, margin: float) -> str:
    point = one.point
    threads = f" with {point.threads} threads" if point.threads else ""
    return (
        f"expected {point.precision} by {point.runtime}{threads} to take at most {margin:.0%} longer than the usual "
        f"{one.usual_ms:.4g} ms, found {point.p50_ms:.4g} ms ({one.change:+.0%}) on {point.device}; see "
        f"{HISTORY}/latency.svg for when it began"
    )


if __name__ == "__main__":
    with one_sentence(), server_that_answers():
        device_benchmark()
