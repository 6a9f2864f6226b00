"""What a Prefect server has to hold for our flows: the work pool, and what takes up runs that were killed.

A run says every 30 seconds that it lives (`job_variables` of prefect.yaml). One automation calls a silent one
crashed, another one that was taken by a worker and did not begin; a third schedules what crashed anew, as the same
run, and a fourth gives up what never begins. A run that is resumed finds the workspace as it was left: finished stages
are not run again, a training goes on from its checkpoint.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import psutil  # type: ignore[import-untyped]
from prefect import get_client
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification
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

from rsd.machine.errors import UserError

MOST_STARTS = 5
"""A run that was killed is started again; one that kills its machine shall not be, for ever."""
BEGIN_SECONDS = 900.0
"""From when a worker takes a run to its first heartbeat: an image is pulled, a busy machine imports."""
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
    """Make sure of the automations for runs of `pool` and of `POOL-...`; a run is lost that was silent for so long.

    One that is there as it should be is left alone: it knows who last said that it lives, and a user may have switched
    it off.
    """
    for wanted in _automations(pool, lost_after):
        with get_client(sync_client=True) as client:
            there = client.read_automations_by_name(wanted.name)
            for other in there[1:]:
                client.delete_automation(other.id)
            if not there:
                client.create_automation(wanted)
            elif _definition(there[0]) != _definition(wanted):
                client.update_automation(there[0].id, wanted.model_copy(update={"enabled": there[0].enabled}))


def _definition(automation: AutomationCore) -> dict[str, Any]:
    return {name: getattr(automation, name) for name in ("trigger", "actions")}


def _automations(pool: str, lost_after: float) -> list[AutomationCore]:
    heartbeat, pending = "prefect.flow-run.heartbeat", "prefect.flow-run.Pending"
    silent = {f"prefect.flow-run.{state}" for state in SILENT}

    def missing(after: str, expect: set[str], seconds: float) -> EventTrigger:
        within = timedelta(seconds=seconds)
        return _for_each_run(pool, after={after}, expect=expect, posture=Posture.Proactive, within=within)

    def crashed(message: str) -> ChangeFlowRunState:
        return ChangeFlowRunState(state=StateType.CRASHED, message=message)

    return [
        AutomationCore(
            name=f"{pool}: a silent run has crashed",
            trigger=missing(heartbeat, {heartbeat, *silent}, lost_after),
            actions=[crashed(f"no heartbeat for {lost_after:g} s: its worker or machine died")],
        ),
        AutomationCore(
            name=f"{pool}: a run that never began has crashed",
            trigger=missing(pending, {heartbeat, *silent}, BEGIN_SECONDS),
            actions=[crashed(f"it did not begin for {BEGIN_SECONDS:g} s: its worker or machine died")],
        ),
        AutomationCore(
            name=f"{pool}: what crashed is resumed",
            trigger=_for_each_run(pool, expect={"prefect.flow-run.Crashed"}),
            actions=[
                ChangeFlowRunState(
                    name="AwaitingRetry", state=StateType.SCHEDULED, force=True, message="resumed after a crash"
                )
            ],
        ),
        AutomationCore(
            name=f"{pool}: what never begins is given up",  # the server counts a start when the flow runs
            trigger=_for_each_run(
                pool,
                expect={"prefect.flow-run.AwaitingRetry"},
                threshold=MOST_STARTS + 1,  # where the flow runs it says so itself, before; see `begin`
                within=timedelta(hours=2),  # each try may take `BEGIN_SECONDS`
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.FAILED,
                    force=True,
                    message=f"expected this run to begin, found its process dead {MOST_STARTS + 1} times; see the "
                    "worker's log (a module that cannot be imported? a missing image?), then start another",
                )
            ],
        ),
    ]


def _for_each_run(pool: str, **more: Any) -> EventTrigger:
    return EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(
            {"prefect.resource.role": "work-pool", "prefect.resource.name": [pool, f"{pool}-*"]}
        ),
        for_each={"prefect.resource.id"},
        **more,
    )


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
