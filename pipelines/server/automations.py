"""The work pool of our flows on a Prefect server, and the automations that resume killed runs.

Prefect marks no run as crashed whose machine has died, and resumes none. A run sends a heartbeat every 30 seconds
(`job_variables` of prefect.yaml). One automation marks a run without heartbeats as crashed; a second, a run that a
worker took and that did not begin; a third schedules a crashed run again, as the same run; a fourth gives up a run that
never begins. A resumed run finds the workspace as it was left: finished stages are not run again, and a training goes
on from its checkpoint.
"""

import os
import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psutil  # type: ignore[import-untyped]
from prefect import get_client
from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import AwaitingRetry

from rsd.machine.errors import UserError

MOST_STARTS = 5
"""A killed run is started again, but not for ever: it may be what kills its machine."""
BEGIN_SECONDS = 900.0
"""Between a worker taking a run and the first heartbeat: an image may be pulled, and a busy machine imports slowly."""
RESUME_SECONDS = 15.0
"""Between a crash and its resumption. A worker reports each crash twice, seconds apart. If the run were resumed in
between, the second report would end the new start. And an automation that acts on an event at once writes while Prefect
evaluates the others for that event: SQLite refuses that as locked, Prefect drops the event after four tries, and later
events of the run wait for 15 minutes."""
HOST, PROCESS, SINCE = "rsd.host", "rsd.process", "rsd.since"
"""Labels of a run: the host, process number and start time of its process."""
SILENT = ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry", "Paused", "Suspending", "Suspended")
"""States in which a run sends no heartbeat."""
STATES = (*SILENT, "Scheduled", "Pending", "Running")


def create_pool(name: str) -> None:
    """Create the pool, whose workers start a process per run; an existing one stays as it is."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def create_automations(pool: str, *, lost_after: float) -> None:
    """Create or update the automations for the runs of `pool` and of pools named `POOL-...`.

    `lost_after` are the seconds without a heartbeat after which a run has crashed. An automation that is there as it
    should be is left alone: it remembers the last heartbeats, and the user may have switched it off.
    """
    for automation in _automations(pool, lost_after):
        with get_client(sync_client=True) as client:
            there = client.read_automations_by_name(automation.name)
            for other in there[1:]:
                client.delete_automation(other.id)
            if not there:
                client.create_automation(automation)
            elif _definition(there[0]) != _definition(automation):
                client.update_automation(there[0].id, automation.model_copy(update={"enabled": there[0].enabled}))


def _definition(automation: AutomationCore) -> dict[str, Any]:
    return {name: getattr(automation, name) for name in ("trigger", "actions")}


def _automations(pool: str, lost_after: float) -> list[AutomationCore]:
    heartbeat, pending, crash = (f"prefect.flow-run.{name}" for name in ("heartbeat", "Pending", "Crashed"))
    silent, states = ({f"prefect.flow-run.{state}" for state in names} for names in (SILENT, STATES))

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
            # It expects `pending`, too, so that each start has its own BEGIN_SECONDS.
            trigger=missing(pending, {pending, heartbeat, *silent}, BEGIN_SECONDS),
            actions=[crashed(f"it did not begin for {BEGIN_SECONDS:g} s: its worker or machine died")],
        ),
        AutomationCore(
            name=f"{pool}: what crashed is resumed",
            trigger=missing(crash, states, RESUME_SECONDS),
            actions=[
                ChangeFlowRunState(
                    name="AwaitingRetry", state=StateType.SCHEDULED, force=True, message="resumed after a crash"
                )
            ],
        ),
        AutomationCore(
            name=f"{pool}: what never begins is given up",
            trigger=_for_each_run(
                pool,
                expect={"prefect.flow-run.AwaitingRetry"},
                threshold=MOST_STARTS + 1,  # a run that does begin gives itself up before that, see `begin`
                within=timedelta(hours=2),  # each try may take `BEGIN_SECONDS`
            ),
            actions=[
                # Not failed: a worker that asked for runs just before would still take a failed one, and this
                # automation gives up only once in two hours.
                ChangeFlowRunState(
                    state=StateType.CANCELLED,
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
    """The deployments of `pool`, as `FLOW/DEPLOYMENT`."""
    with get_client(sync_client=True) as client:
        there = client.read_deployments(work_pool_filter=_named(pool))
        return sorted(f"{client.read_flow(one.flow_id).name}/{one.name}" for one in there)


def take_up_lost_runs(pool: str) -> list[str]:
    """Schedule again the runs of `pool` whose process was on this machine and is dead; returns their names.

    The automations would do so, too, but minutes later.
    """
    with get_client(sync_client=True) as client:
        live = FlowRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}})
        runs = client.read_flow_runs(flow_run_filter=live, work_pool_filter=_named(pool))
        lost = [run for run in runs if died_here(run)]
        for run in lost:
            client.set_flow_run_state(run.id, AwaitingRetry(message="resumed: its worker died"), force=True)
        return [run.name for run in lost]


def begin() -> None:
    """Label the flow run with where it runs, as every flow does first; `UserError` if it was killed too often."""
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
        return _since(int(run.labels[PROCESS])) != run.labels[SINCE]  # another process has its number by now
    except psutil.NoSuchProcess:
        return True


def _named(pool: str) -> WorkPoolFilter:
    return WorkPoolFilter.model_validate({"name": {"any_": [pool]}})
