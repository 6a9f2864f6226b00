"""What a Prefect server has to hold for our flows: the work pool, and what takes up runs that were killed.

A run says every 30 seconds that it lives (`job_variables` of prefect.yaml). One automation calls a silent one
crashed; another schedules what crashed anew, as the same run. It finds the workspace as it was left: finished stages
are not run again, a training goes on from its checkpoint.
"""

import os
import socket
from datetime import timedelta

import psutil  # type: ignore[import-untyped]
from prefect import get_client
from prefect.automations import Automation, ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import AwaitingRetry

from rsd.errors import UserError

MOST_STARTS = 5
"""A run that was killed is started again; one that kills its machine shall not be, for ever."""
HOST, PROCESS, SINCE = "rsd.host", "rsd.process", "rsd.since"
"""Labels of a run."""
SILENT = ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry", "Paused", "Suspending", "Suspended")
"""States from which no heartbeat is due."""


def create_pool(name: str) -> None:
    """A pool whose workers start a process per run; one that is there stays as it was."""
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        except ObjectAlreadyExists:
            return


def create_automations(pool: str, *, lost_after: float) -> None:
    """The two automations for runs of `pool`, anew; a run is lost that was silent for `lost_after` seconds."""
    of_pool = ResourceSpecification({"prefect.resource.role": "work-pool", "prefect.resource.name": pool})
    runs = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    heartbeat = "prefect.flow-run.heartbeat"
    wanted = [
        Automation(
            name=f"{pool}: a silent run has crashed",
            trigger=EventTrigger(
                match=runs,
                match_related=of_pool,
                after={heartbeat, "prefect.flow-run.Pending"},
                expect={heartbeat, *(f"prefect.flow-run.{state}" for state in SILENT)},
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=lost_after),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    message=f"no heartbeat for {lost_after:g} s: its worker or machine died",
                )
            ],
        ),
        Automation(
            name=f"{pool}: what crashed is resumed",
            trigger=EventTrigger(
                match=runs,
                match_related=of_pool,
                expect={"prefect.flow-run.Crashed"},
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                ChangeFlowRunState(
                    name="AwaitingRetry", state=StateType.SCHEDULED, force=True, message="resumed after a crash"
                )
            ],
        ),
    ]
    for automation in wanted:
        with get_client(sync_client=True) as client:
            for old in client.read_automations_by_name(automation.name):
                client.delete_automation(old.id)
        automation.create()


def deployments(pool: str) -> list[str]:
    """The names of what `pool` can run, as `FLOW/DEPLOYMENT`."""
    with get_client(sync_client=True) as client:
        found = client.read_deployments(work_pool_filter=_named(pool))
        return sorted(f"{client.read_flow(one.flow_id).name}/{one.name}" for one in found)


def take_up_lost_runs(pool: str) -> list[str]:
    """Schedule anew the runs of `pool` whose process was on this machine and is dead; returns their names.

    Heartbeats find them, too, but minutes later.
    """
    with get_client(sync_client=True) as client:
        live = [StateType.RUNNING, StateType.PENDING]
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=live))),
            work_pool_filter=_named(pool),
        )
        lost = [run for run in runs if died_here(run)]
        for run in lost:
            client.set_flow_run_state(run.id, AwaitingRetry(message="resumed: its worker died"), force=True)
        return [run.name for run in lost]


def begin() -> None:
    """What every flow does first: note where it runs. Raises `UserError` in a run that was started too often."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return
    if run.run_count > MOST_STARTS:
        raise UserError(
            f"expected this run to live, found it killed {run.run_count - 1} times; see its log, the worker's and the "
            "kernel's (out of memory?), then start another"
        )
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(run.id, {HOST: socket.gethostname(), PROCESS: os.getpid(), SINCE: _since()})


def _since(process: int | None = None) -> float:
    return round(float(psutil.Process(process).create_time()), 1)


def died_here(run: FlowRun) -> bool:
    """Whether the process of `run` was on this machine and is gone."""
    if run.labels.get(HOST) != socket.gethostname():
        return False
    try:
        return _since(int(run.labels[PROCESS])) != run.labels[SINCE]  # else its number is another's by now
    except psutil.NoSuchProcess:
        return True


def _named(pool: str) -> WorkPoolFilter:
    return WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
