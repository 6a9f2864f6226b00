"""The playbook over three hosts, each with a network, an sshd and a server of its own.

A host is a network namespace: its loopback is its own, so every device serves on 127.0.0.1:8080, and nothing reaches it
but SSH. Ansible runs in a fourth namespace, which has a cable to each.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rsd_edge.releases import Releases

from benchmarks.namespaces import ip, namespace, why_not

from .fleet import BIN, Fleet, Host, edge_variables, outcomes

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")
NAMES = ("edge-1", "edge-2", "edge-3")


def why_none() -> str | None:
    if missing := [name for name in ("ssh", "ssh-keygen") if not shutil.which(name)] + ["sshd"] * (not SSHD):
        return f"no {', '.join(missing)} here: `apt-get install openssh-server openssh-client`"
    return why_not()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ssh"),
    pytest.mark.skipif(bool(reason := why_none()), reason=str(reason)),
]


@contextmanager
def running(space: str, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a namespace, ended with the block."""
    process = subprocess.Popen(["ip", "netns", "exec", space, *command], start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def within(space: str, path: str) -> Any:
    """What the server in a namespace answers to a GET."""
    get = f"from urllib.request import urlopen as o; print(o('http://127.0.0.1:8080{path}', timeout=5).read().decode())"
    done = subprocess.run(["ip", "netns", "exec", space, sys.executable, "-c", get], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


class SshHost(Host):
    space: str

    def served(self) -> int:
        return int(within(self.space, "/v1/status")["release"])


@pytest.fixture(scope="module")
def fleet(shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three hosts that serve release 1."""
    folder = tmp_path_factory.mktemp("fleet")
    Path("/run/sshd").mkdir(exist_ok=True)
    user = key(folder / "user")
    with ExitStack() as stack:
        controller = stack.enter_context(namespace("controller"))
        hosts: dict[str, Host] = {}
        known = []
        for number, name in enumerate(NAMES, 1):
            home = folder / name
            root = home / "device"
            root.mkdir(parents=True)
            Releases(root).install(shared.bundle(1), shared.keys)
            Releases(root).activate(shared.keys)
            space, address = stack.enter_context(namespace(name)), f"10.213.{number}.2"
            ip("-n", controller, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
            for side, device, end in ((controller, name, 1), (space, "eth0", 2)):
                ip("-n", side, "address", "add", f"10.213.{number}.{end}/30", "dev", device)
                ip("-n", side, "link", "set", device, "up")
            secret = key(home / "host")
            known.append(f"{address} {secret.with_suffix('.pub').read_text()}")
            assert SSHD
            stack.enter_context(
                running(
                    space, SSHD, "-D", "-e", "-f", os.devnull, "-h", secret, "-o", f"AuthorizedKeysFile={user}.pub",
                    "-o", "StrictModes=no", "-o", "PidFile=none", "-o", "PasswordAuthentication=no",
                    "-o", "LogLevel=ERROR", "-o", f"ListenAddress={address}",
                )
            )  # fmt: skip
            stack.enter_context(running(space, BIN / "rsd-edge", "--root", root, "serve"))
            host = SshHost(home, edge_variables(root, shared))
            host.space = space
            host.variables |= {
                "ansible_host": address, "ansible_user": "root", "ansible_timeout": 5,
                "ansible_ssh_private_key_file": str(user),
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=yes",
            }  # fmt: skip
            hosts[name] = host
        (folder / "known").write_text("".join(known))
        deadline = time.monotonic() + 60
        while not all(within(host.space, "/v2/health/ready") for host in hosts.values() if isinstance(host, SshHost)):
            assert time.monotonic() < deadline
        yield Fleet(folder, shared, hosts, prefix=["ip", "netns", "exec", controller])


def served(fleet: Fleet) -> list[int]:
    return [host.served() for host in fleet.hosts.values()]


def test_three_hosts_switch_once_canary_first(shared: Any, fleet: Fleet) -> None:
    results = fleet.roll_out(shared.bundle(2))
    assert outcomes(results) == dict.fromkeys(NAMES, "switched")
    assert [host["wave"] for host in results["hosts"]] == [1, 2, 2]
    assert fleet.currents() == ["tiny-2"] * 3
    assert served(fleet) == [2, 2, 2]

    assert outcomes(fleet.roll_out(shared.bundle(2))) == dict.fromkeys(NAMES, "unchanged")
    assert not any(fleet.changed().values())


def test_one_failing_host_takes_all_back(shared: Any, fleet: Fleet, tmp_path: Path) -> None:
    """The last host pins another key, and refuses the bundle when the two before it have switched."""
    (tmp_path / "other.pub").write_bytes(shared.other_public)
    before = fleet.currents()
    fleet.hosts["edge-3"].variables["rsd_keys"] = str(tmp_path)
    results = fleet.roll_out(shared.bundle(3), waves=[1, 1, 1], status=2)
    assert outcomes(results) == {"edge-1": "reversed", "edge-2": "reversed", "edge-3": "failed"}
    assert (
        "first edge-3: expected a signature of one of the 1 pinned keys, found that of another key"
        in (results["sentence"])
    )
    assert fleet.currents() == before
    assert served(fleet) == [int(str(release).rpartition("-")[2]) for release in before]
