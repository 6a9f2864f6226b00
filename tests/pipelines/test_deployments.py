"""prefect.yaml: every flow, as a form that a person can fill in."""

import importlib
from typing import Any

import pytest
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema

from pipelines.server.connection import RETRIES
from pipelines.server.lifecycle import LOST_SECONDS
from rsd.machine.yaml_file import read_yaml
from tests.pipelines.conftest import PROJECT

DEPLOYMENTS = read_yaml(PROJECT / "prefect.yaml")["deployments"]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


each = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=[one["entrypoint"] for one in DEPLOYMENTS])


def test_every_flow_of_the_project_has_a_deployment() -> None:
    files = (path.relative_to(PROJECT) for path in (PROJECT / "pipelines").rglob("*.py"))
    modules = [importlib.import_module(".".join(file.with_suffix("").parts)) for file in files]
    flows = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Flow) and value.fn.__module__ == module.__name__
    }
    assert flows == {deployment["entrypoint"] for deployment in DEPLOYMENTS}


@each
def test_a_flow_takes_what_its_deployment_sets(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    required = set(parameter_schema(flow).required)
    given = deployment.get("parameters", {})
    flow.validate_parameters({**dict.fromkeys(required, "x"), **given})
    assert not any(schedule.get("active") for schedule in deployment.get("schedules", []))
    for schedule in deployment.get("schedules", []):
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        assert not required - given.keys()


@each
def test_every_parameter_has_type_title_and_description(deployment: dict[str, Any]) -> None:
    for name, field in parameter_schema(flow_of(deployment)).properties.items():
        assert field.get("title"), name
        assert field.get("description"), f"{name} says nothing"
        assert field.keys() & {"type", "anyOf", "$ref", "allOf", "enum"}, f"{name} has no type"


@each
def test_every_run_sends_heartbeats_whatever_its_worker(deployment: dict[str, Any]) -> None:
    environment = deployment["work_pool"]["job_variables"]["env"]
    assert 4 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) < LOST_SECONDS
    assert environment["PREFECT_CLIENT_MAX_RETRIES"] == str(RETRIES)
