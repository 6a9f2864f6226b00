"""What the server holds for our flows, and which runs are taken up."""

import os
import socket
from uuid import uuid4

import psutil  # type: ignore[import-untyped]
import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from pipelines import upkeep
from pipelines.upkeep import HOST, PROCESS, SINCE, begin, create_automations, create_pool, died_here
from rsd.errors import UserError


def test_a_run_says_where_it_runs_and_is_not_taken_for_dead(prefect_server: dict[str, str]) -> None:
    @flow
    def one() -> str:
        begin()
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        return str(context.flow_run.id)

    run = one()
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(run)  # type: ignore[arg-type]
    assert found.labels[HOST] == socket.gethostname()
    assert found.labels[PROCESS] == os.getpid()
    assert not died_here(found)


@pytest.mark.parametrize(
    ("host", "process", "since", "dead"),
    [
        (socket.gethostname(), os.getpid(), 1.0, True),  # the number is another process's by now
        (socket.gethostname(), 2**22 + 1, 1.0, True),
        ("elsewhere", 2**22 + 1, 1.0, False),
        (socket.gethostname(), os.getpid(), round(psutil.Process().create_time(), 1), False),
    ],
)
def test_a_run_is_dead_if_its_process_was_here_and_is_gone(host: str, process: int, since: float, dead: bool) -> None:
    assert died_here(FlowRun(flow_id=uuid4(), labels={HOST: host, PROCESS: process, SINCE: since})) == dead
    assert not died_here(FlowRun(flow_id=uuid4(), labels={}))


def test_a_run_that_was_killed_too_often_is_given_up(
    prefect_server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "MOST_STARTS", 0)

    @flow
    def one() -> None:
        begin()

    with pytest.raises(UserError, match="expected this run to live, found it killed 0 times"):
        one()


def test_pool_and_automations_are_there_once_however_often_they_are_made(prefect_server: dict[str, str]) -> None:
    for _ in range(2):
        create_pool("rsd")
        create_automations("rsd", lost_after=150)

    with get_client(sync_client=True) as client:
        assert client.read_work_pool("rsd").type == "process"
        for name in ("rsd: a silent run has crashed", "rsd: what crashed is resumed"):
            assert len(client.read_automations_by_name(name)) == 1
