"""The flow around the playbook: it asks, shows and fails in one sentence."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import StateType
from prefect.flow_runs import resume_flow_run

from pipelines import rollout as module
from pipelines.rollout import GoAhead, RolloutError, main, reason, rollout
from rsd.machine.errors import UserError
from tests.bundles import Workshop
from tests.deploy.rollout.fleet import local_fleet
from tests.pipelines.conftest import wait_until

# Keeps to the playbook's contract with files, which a slow test holds the playbook to.
PLAYBOOK = """
    import json, pathlib, sys, time
    given = json.loads(sys.argv[-1])
    if given["allowed_percent"] == 99:
        pathlib.Path(given["bundle"], "held").touch()
        time.sleep(300)
    if given["allowed_percent"] == 13:
        print("[ERROR]: Task failed: Action failed: expected luck, found none")
        print("Origin: somewhere")
        sys.exit(2)
    done = [{"host": "a", "wave": 1, "before": "x-1", "outcome": "switched", "message": ""}]
    def write(**extra):
        results = {"release": "x-2", "reversed": False, "sentence": "", "hosts": done, "not_tried": ["b"]} | extra
        pathlib.Path(given["results"]).write_text(json.dumps(results))
    write()
    if "approvals" in given:
        question = pathlib.Path(given["approvals"], "wave-2.hosts")
        question.with_suffix(".new").write_text('["b"]')
        question.with_suffix(".new").rename(question)
        while not question.with_suffix(".answer").exists():
            time.sleep(0.05)
        if question.with_suffix(".answer").read_text() != "yes\\n":
            done[0]["outcome"] = "reversed"
            write(reversed=True, sentence="expected a go-ahead for wave 2, found a refusal")
            sys.exit(2)
    done.append(done[0] | {"host": "b", "wave": 2})
    write(not_tried=[])
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    (tmp_path / "inventory.yml").write_text("devices: {hosts: {a: {}, b: {}}}")
    return tmp_path / "bundle"


@pytest.fixture
def playbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "playbook.py").write_text(textwrap.dedent(PLAYBOOK))
    monkeypatch.setattr(module, "ANSIBLE", [sys.executable, str(tmp_path / "playbook.py")])
    monkeypatch.setattr(module, "POLL_SECONDS", 0.2)


@pytest.fixture
def answering(prefect_server: dict[str, str]) -> Callable[..., list[Any]]:
    """Starts someone who answers the first pause as a person does in the UI; what was on show then."""

    def start(**answer: Any) -> list[Any]:
        shown: list[Any] = []

        def person() -> None:
            with get_client(sync_client=True) as client:
                deadline = time.monotonic() + 120
                while time.monotonic() < deadline:
                    for run in client.read_flow_runs():
                        if run.state and run.state.type == StateType.PAUSED:
                            shown.append(table())
                            resume_flow_run(run.id, run_input=answer)
                            return
                    time.sleep(0.2)

        threading.Thread(target=copy_context().run, args=[person], daemon=True).start()
        return shown

    return start


def table() -> Any:
    """The newest table of hosts."""
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["rollout"])))
    return json.loads(str(max(artifacts, key=lambda artifact: str(artifact.created)).data))


def roll_out(bundle: Path, **given: Any) -> Any:
    return rollout(str(bundle), str(bundle.parent / "inventory.yml"), **given)


def test_table_and_result_hold_every_host(bundle: Path, playbook: None, prefect_server: dict[str, str]) -> None:
    rows = roll_out(bundle)
    assert [(row["host"], row["outcome"]) for row in rows] == [("a", "switched"), ("b", "switched")]
    assert table() == rows
    with get_client(sync_client=True) as client:
        assert f"rollout {bundle}" in {run.name for run in client.read_flow_runs()}


def test_a_go_ahead_starts_the_next_wave(bundle: Path, playbook: None, answering: Callable[..., list[Any]]) -> None:
    shown = answering(go_ahead=True, remark="the canary looks well")
    assert [row["outcome"] for row in roll_out(bundle, approve=True)] == ["switched", "switched"]
    assert [(row["host"], row["outcome"]) for row in shown[0]] == [("a", "switched"), ("b", "not tried")]


def test_a_refusal_fails_with_the_playbooks_sentence(
    bundle: Path, playbook: None, answering: Callable[..., list[Any]]
) -> None:
    answering(go_ahead=False)
    with pytest.raises(RolloutError, match="^expected a go-ahead for wave 2, found a refusal$"):
        roll_out(bundle, approve=True)
    assert [row["outcome"] for row in table()] == ["reversed", "not tried"]


def test_no_answer_is_a_no(bundle: Path, playbook: None, prefect_server: dict[str, str]) -> None:
    with pytest.raises(RolloutError, match="found a refusal"):
        roll_out(bundle, approve=True, approval_hours=1 / 3600)


def test_an_early_playbook_failure_gives_its_own_error(
    bundle: Path, playbook: None, prefect_server: dict[str, str]
) -> None:
    with pytest.raises(RolloutError, match="^expected luck, found none$"):
        roll_out(bundle, allowed_percent=13)


def test_missing_inputs_are_refused_before_a_server_starts(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "server_that_answers", lambda: pytest.fail("started a server"))
    inventory = str(bundle.parent / "inventory.yml")
    for arguments, sentence in (
        ([str(bundle.parent), "--inventory", inventory], "error: expected a signed bundle in"),
        ([str(bundle), "--inventory", "nowhere"], "error: expected an inventory in nowhere, found none"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            main(arguments)
    for option, wrong in (
        *(("--waves", sizes) for sizes in ("1,many", "", "10%%", "0", "1,101%", "0%")),
        *(("--allowed-percent", share) for share in ("-1", "101", "nan")),
        *(("--approval-hours", hours) for hours in ("-1", "0", "inf")),
    ):
        with pytest.raises(SystemExit, match=f"error: {option[2:].replace('-', ' ')}: expected"):
            main([str(bundle), "--inventory", inventory, option, wrong])


def test_a_missing_inventory_is_refused_with_a_sentence(bundle: Path, prefect_server: dict[str, str]) -> None:
    with pytest.raises(UserError, match="expected an inventory in nowhere, found none"):
        rollout(str(bundle), "nowhere")


def test_the_form_needs_an_answer() -> None:
    schema = GoAhead.model_json_schema()
    assert schema["required"] == ["go_ahead"]
    assert schema["properties"]["go_ahead"]["type"] == "boolean"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["PLAY", "[ERROR]: Task failed: Action failed: expected x", "Origin: y", "PLAY RECAP"], "expected x"),
        (["[ERROR]: one", "[ERROR]: two", "last"], "two"),
        (["ERROR! no such thing"], "ERROR! no such thing"),
        ([], "the playbook ended without a word"),
    ],
)
def test_the_reason_is_ansible_s_last_error(lines: list[str], sentence: str) -> None:
    assert reason(lines) == sentence


@pytest.mark.slow
def test_a_stopped_flow_leaves_no_playbook(
    bundle: Path, tmp_path: Path, playbook: None, prefect_server: dict[str, str]
) -> None:
    program = f"from pipelines import rollout; rollout.ANSIBLE = {module.ANSIBLE}; rollout.main()"
    arguments = [str(bundle), "--inventory", str(tmp_path / "inventory.yml"), "--allowed-percent", "99"]
    started = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **prefect_server, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_until((bundle / "held").exists, 60)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 1
    assert output.splitlines()[-1].startswith("error: stopped; run the same command again")
    assert not [p for p in psutil.process_iter(["cmdline"]) if module.ANSIBLE[-1] in (p.info["cmdline"] or [])]


@pytest.mark.slow
def test_the_real_playbook_waits_for_the_go_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answering: Callable[..., list[Any]]
) -> None:
    workshop = Workshop(tmp_path / "workshop")
    first, second, third = (workshop.signed(number, precisions=("fp32",)) for number in (1, 2, 3))
    with local_fleet(tmp_path, workshop, first, "edge-1", "edge-2") as fleet:
        inventory = str(fleet.inventory())
        shown = answering(go_ahead=True)
        rows = rollout(str(second), inventory, waves=[1, "100%"], approve=True)
        assert [row["outcome"] for row in rows] == ["switched", "switched"]
        assert [row["outcome"] for row in shown[0]] == ["switched", "not tried"]
        assert fleet.currents() == ["tiny-2", "tiny-2"]

        fleet.hosts["edge-2"].variables["rsd_server"] = "http://127.0.0.1:1"
        fleet.inventory()
        with pytest.raises(RolloutError, match="found 1 of 2, first edge-2: expected tiny-3 to be healthy"):
            rollout(str(third), inventory, waves=[1, "100%"])
        assert fleet.currents() == ["tiny-2", "tiny-2"]
