"""The playbook over devices on this machine, which it reaches without SSH; test_over_ssh.py is about that."""

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .fleet import BIN, PATH, PLAYBOOK, Fleet, local_fleet, outcomes

slow = pytest.mark.slow
EXAMPLE = PLAYBOOK.with_name("inventory.example.yml")


@pytest.fixture
def fleet(shared, tmp_path):
    with local_fleet(tmp_path, shared, shared.bundle(1), "edge-1", "edge-2", "edge-3") as fleet:
        yield fleet


def test_ansible_takes_playbook_and_example_inventory():
    command: Sequence[str | Path] = [BIN / "ansible-playbook", "-i", EXAMPLE, PLAYBOOK, "--list-hosts"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PATH": PATH, "HOME": "/nonexistent"}
    )
    hosts = done.stdout.split("Switch wave by wave")[1].split("play #")[0].split("hosts (40):")[1].split()
    assert sorted(hosts) == sorted(f"edge-{n}.example.org" for n in ["1", *(f"{n:02}" for n in range(2, 41))])


def test_a_rollout_needs_a_signed_bundle_and_hosts(shared, tmp_path):
    fleet = Fleet(tmp_path, shared, {})
    for inventory, bundle, sentence in (
        (EXAMPLE, shared.unsigned(7), "expected a signed bundle, found none in"),
        ("nowhere,", shared.bundle(1), "expected hosts in the groups canary and devices, found none"),
    ):
        command: Sequence[str | Path] = [BIN / "ansible-playbook", "-i", inventory, PLAYBOOK, "-e", f"bundle={bundle}"]
        done = subprocess.run(command, capture_output=True, text=True, env={"PATH": PATH, "HOME": "/nonexistent"})
        assert done.returncode == 2
        assert sentence in done.stdout + done.stderr
    assert not list(fleet.folder.iterdir())


@slow
def test_check_and_second_rollout_change_nothing(shared, fleet, tmp_path):
    relative = os.path.relpath(shared.bundle(2), fleet.folder)  # as it may be typed
    results = fleet.roll_out(Path(relative), "--check")
    assert set(outcomes(results).values()) == {"would switch"}
    assert fleet.currents() == ["tiny-1"] * 3
    assert not any(fleet.changed().values())

    (tmp_path / "wave-2.answer").write_text("yes\n")
    results = fleet.roll_out(Path(relative), approvals=str(tmp_path))
    assert results["hosts"] == [
        {"host": name, "wave": wave, "before": "tiny-1", "outcome": "switched", "message": ""}
        for name, wave in (("edge-1", 1), ("edge-2", 2), ("edge-3", 2))
    ]
    assert not results["reversed"]
    assert fleet.currents() == ["tiny-2"] * 3
    assert [host.served() for host in fleet.hosts.values()] == [2, 2, 2]
    assert not list(fleet.folder.glob("*/device/*.tar"))

    results = fleet.roll_out(shared.bundle(2))
    assert set(outcomes(results).values()) == {"unchanged"}
    assert not any(fleet.changed().values())


@slow
def test_a_failing_canary_stops_the_rollout(shared, fleet):
    fleet.hosts["edge-1"].variables["rsd_server"] = "http://127.0.0.1:1"
    results = fleet.roll_out(shared.bundle(2), allowed_percent=50, status=2)
    assert outcomes(results) == {"edge-1": "failed"}
    assert results["not_tried"] == ["edge-2", "edge-3"]
    assert "found 1 of 1, first edge-1: expected tiny-2 to be healthy within 1 s" in results["sentence"]
    assert fleet.currents() == ["tiny-1"] * 3


@slow
def test_as_many_failures_as_allowed_stop_nothing(shared, fleet):
    fleet.hosts["edge-3"].variables |= {
        "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_timeout": 2,
    }  # fmt: skip
    results = fleet.roll_out(shared.bundle(2), allowed_percent=34)
    assert outcomes(results) == {"edge-1": "switched", "edge-2": "switched", "edge-3": "failed"}
    assert "expected to reach the host, found: " in results["hosts"][2]["message"]
    assert fleet.currents() == ["tiny-2", "tiny-2", "tiny-1"]


@slow
def test_hosts_that_cannot_go_back_are_named(shared, fleet):
    """A connection that is lost at the wrong moment; and a device that loses its earlier release."""
    seems = fleet.folder / "seems-to-fail"
    seems.write_text(f'#!/bin/sh\n{BIN}/rsd-edge "$@" || exit 1\ncase "$*" in *" activate "*) exit 9;; esac\n')
    cannot = fleet.folder / "cannot-go-back"
    cannot.write_text(
        f'#!/bin/sh\ncase "$*" in *" rollback "*) echo "error: expected a way back, found none" >&2; exit 1;; esac\n'
        f'exec {BIN}/rsd-edge "$@"\n'
    )
    for name, wrapper in (("edge-2", cannot), ("edge-3", seems)):
        wrapper.chmod(0o755)
        fleet.hosts[name].variables["rsd_edge"] = str(wrapper)
    results = fleet.roll_out(shared.bundle(2), status=2)
    assert outcomes(results) == {"edge-1": "reversed", "edge-2": "stuck", "edge-3": "failed"}
    assert results["hosts"][1]["message"] == "expected a way back, found none"
    assert "1 of 3 hosts tried went back (look after edge-2, which could not)" in results["sentence"]
    assert fleet.currents() == ["tiny-1", "tiny-2", "tiny-1"]


@slow
def test_without_a_go_ahead_the_rollout_goes_back(shared, fleet, tmp_path):
    results = fleet.roll_out(shared.bundle(2), approvals=str(tmp_path), approval_seconds=1, status=2)
    assert json.loads((tmp_path / "wave-2.hosts").read_text()) == ["edge-2", "edge-3"]
    assert outcomes(results) == {"edge-1": "reversed"}
    assert results["sentence"] == "expected a go-ahead for wave 2, found no answer; 1 of 1 hosts tried went back"
    assert fleet.currents() == ["tiny-1"] * 3


@slow
def test_a_first_release_stays_when_taken_back(shared, tmp_path):
    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with (
        local_fleet(tmp_path, shared, None, "edge-1", "edge-2") as fleet,
        ThreadingHTTPServer(("127.0.0.1", 0), Well) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fleet.hosts["edge-1"].variables["rsd_server"] = f"http://127.0.0.1:{server.server_port}"
        fleet.hosts["edge-2"].variables["rsd_server"] = "http://127.0.0.1:1"
        results = fleet.roll_out(shared.bundle(1), status=2)
        server.shutdown()
    assert outcomes(results) == {"edge-1": "kept", "edge-2": "failed"}
    assert results["hosts"][0]["message"] == "had no release to go back to"
    assert fleet.currents() == ["tiny-1", None]
