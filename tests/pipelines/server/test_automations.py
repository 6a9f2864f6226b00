"""What the server holds for our flows, and which runs are taken up."""

import os
import socket
from datetime import timedelta
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import pytest
from prefect import flow, get_client
from prefect.automations import EventTrigger, ResourceSpecification
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.events import Automation, Posture, Resource

from pipelines.server import automations as module
from pipelines.server.automations import HOST, PROCESS, SINCE, begin, create_automations, create_pool, died_here
from rsd.machine.errors import UserError


def test_a_live_run_is_labelled_and_not_dead(prefect_server: dict[str, str]) -> None:
    @flow
    def one() -> str:
        begin()
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    run = one()
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(run)  # type: ignore[arg-type]
    assert flow_run.labels[HOST] == socket.gethostname()
    assert flow_run.labels[PROCESS] == os.getpid()
    assert not died_here(flow_run)


@pytest.mark.parametrize(
    ("host", "process", "since", "dead"),
    [
        (socket.gethostname(), os.getpid(), 1.0, True),
        (socket.gethostname(), 2**22 + 1, 1.0, True),
        ("elsewhere", 2**22 + 1, 1.0, False),
        (socket.gethostname(), os.getpid(), round(psutil.Process().create_time(), 1), False),
    ],
    ids=["its number is another's", "it is gone", "it was elsewhere", "it lives"],
)
def test_a_run_is_dead_without_its_local_process(host: str, process: int, since: float, dead: bool) -> None:
    assert died_here(FlowRun(flow_id=uuid4(), labels={HOST: host, PROCESS: process, SINCE: since})) == dead
    assert not died_here(FlowRun(flow_id=uuid4(), labels={}))


def test_a_run_killed_too_often_is_given_up(prefect_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STARTS", 0)

    @flow
    def one() -> None:
        begin()

    with pytest.raises(UserError, match="expected this run to live, found it killed 0 times"):
        one()


def automations(client: SyncPrefectClient, pool: str) -> dict[str, Automation]:
    ours = [one for one in client.read_automations() if one.name.startswith(f"{pool}: ")]
    assert len({one.name for one in ours}) == len(ours)
    return {one.name.removeprefix(f"{pool}: "): one for one in ours}


def test_creating_the_pool_twice_keeps_one(prefect_server: dict[str, str]) -> None:
    for _ in range(2):
        create_pool("mine")

    with get_client(sync_client=True) as client:
        assert client.read_work_pool("mine").type == "process"


def test_an_existing_automation_keeps_its_memory_and_switch(
    prefect_server: dict[str, str],
) -> None:
    create_automations("mine", lost_after=150)
    with get_client(sync_client=True) as client:
        before = automations(client, "mine")
        client.pause_automation(before["what crashed is resumed"].id)
        create_automations("mine", lost_after=150)
        again = automations(client, "mine")
        create_automations("mine", lost_after=40)
        changed = automations(client, "mine")

    silent = "a silent run has crashed"
    assert len(before) == 4
    assert {name: (one.id, one.trigger) for name, one in again.items()} == {
        name: (one.id, one.trigger) for name, one in before.items()
    }
    assert not again["what crashed is resumed"].enabled
    assert not changed["what crashed is resumed"].enabled
    assert changed[silent].id == before[silent].id
    trigger = changed[silent].trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.within == timedelta(seconds=40)


def test_pools_for_containers_are_looked_after_as_well(prefect_server: dict[str, str]) -> None:
    create_automations("mine", lost_after=150)
    with get_client(sync_client=True) as client:
        triggers = [one.trigger for one in automations(client, "mine").values()]

    for trigger in triggers:
        assert isinstance(trigger, EventTrigger)
        pools = trigger.match_related
        assert isinstance(pools, ResourceSpecification)
        for pool, ours in {"mine": True, "mine-docker": True, "mine-k8s": True, "theirs": False}.items():
            related = {"id": f"prefect.work-pool.{pool}", "role": "work-pool", "name": pool}
            resource = Resource({f"prefect.resource.{label}": value for label, value in related.items()})
            assert pools.matches(resource) == ours


def test_no_automation_acts_at_a_crash_itself() -> None:
    """Else the second report of the same crash ends the new start, and SQLite refuses the others' evaluation."""
    crash = "prefect.flow-run.Crashed"
    triggers = [one.trigger for one in module._automations("mine", lost_after=150)]
    events = [trigger for trigger in triggers if isinstance(trigger, EventTrigger)]

    assert len(events) == len(triggers)
    assert all(event.posture == Posture.Proactive for event in events if crash in event.expect)
    assert [event.within for event in events if crash in event.after] == [timedelta(seconds=15)]
