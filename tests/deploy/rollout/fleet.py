"""Devices of a test: a root, keys and a server of its own for each, and the playbook over them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsd_edge.releases import Releases

from tests.bundles import Workshop
from tests.deploy.edge.serving import ask, process

PLAYBOOK = Path(__file__).parents[3] / "deploy" / "rollout" / "rollout.yml"
BIN = Path(sys.executable).parent
PATH = os.pathsep.join([str(BIN), os.environ["PATH"]])


@dataclass
class Host:
    """One device: its folder, and its variables in the inventory."""

    folder: Path
    variables: dict[str, Any]

    @property
    def releases(self) -> Releases:
        return Releases(self.folder / "device")

    @property
    def current(self) -> str | None:
        return self.releases.status()["current"]

    def served(self) -> int:
        """The release that its server says it serves."""
        address = self.variables["rsd_server"].removeprefix("http://")
        status, _, body = ask(address, "GET", "/v1/status")
        assert status == 200
        return int(json.loads(body)["release"])


@dataclass
class Fleet:
    """The first host is the canary."""

    folder: Path
    workshop: Workshop
    hosts: dict[str, Host]
    prefix: Sequence[str] = ()
    """What the playbook is run by, such as `ip netns exec NAME`."""
    output: str = field(default="", init=False)

    def inventory(self) -> Path:
        first, *others = [(name, host.variables) for name, host in self.hosts.items()]
        groups = {"canary": {"hosts": dict([first])}, "devices": {"children": {"canary": {}}, "hosts": dict(others)}}
        path = self.folder / "inventory.yml"
        path.write_text(json.dumps(groups))
        return path

    def roll_out(self, bundle: Path, *arguments: str, status: int = 0, **extra: Any) -> dict[str, Any]:
        """Run the playbook; the content of its results file."""
        results = self.folder / "results.json"
        results.unlink(missing_ok=True)
        playbook: list[str | Path] = [*self.prefix, BIN / "ansible-playbook", "-i", self.inventory(), PLAYBOOK]
        given = {"bundle": str(bundle), "results": str(results), "waves": [1, "100%"], **extra}
        done = subprocess.run(
            [*playbook, "-e", json.dumps(given), *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "PATH": PATH},
            cwd=self.folder,
        )  # fmt: skip
        self.output = done.stdout + done.stderr
        assert done.returncode == status, self.output
        return json.loads(results.read_text()) if results.exists() else {}

    def changed(self) -> dict[str, int]:
        """Per host, how many tasks of the last run changed something."""
        return {name: int(n) for name, n in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.output, re.M)}

    def currents(self) -> list[str | None]:
        return [host.current for host in self.hosts.values()]


def outcomes(results: dict[str, Any]) -> dict[str, str]:
    return {host["host"]: host["outcome"] for host in results["hosts"]}


@contextmanager
def local_fleet(folder: Path, workshop: Workshop, first: Path | None, *names: str) -> Iterator[Fleet]:
    """Devices on this machine, on release `first` if given and served on a port each, reached without SSH."""
    hosts = {}
    with ExitStack() as stack:
        for name in names:
            root = folder / name / "device"
            root.mkdir(parents=True)
            if first:
                Releases(root).install(first, workshop.keys)
                Releases(root).activate(workshop.keys)
            hosts[name] = Host(folder / name, edge_variables(root, workshop) | {"ansible_connection": "local"})
            if first:
                address, _ = stack.enter_context(process(root))
                hosts[name].variables["rsd_server"] = f"http://{address}"
        yield Fleet(folder, workshop, hosts)


def edge_variables(root: Path, workshop: Workshop) -> dict[str, Any]:
    return {
        "ansible_python_interpreter": sys.executable,
        "ansible_pipelining": True,
        "rsd_edge": str(BIN / "rsd-edge"),
        "rsd_root": str(root),
        "rsd_keys": str(workshop.pinned),
        "rsd_window": 1,
    }
