"""Machines that are network namespaces of this one, each with a loopback and a cable of its own. It takes root."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple


def why_not(*programs: str) -> str | None:
    """Why there can be none here, in words; None if there can.

    Args:
        programs: also needed, besides `ip`.
    """
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if missing := [name for name in ("ip", *programs) if not shutil.which(name)]:
        return f"no {', '.join(missing)} here: `apt-get install iproute2`"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else None


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A namespace for the length of the block; its full name."""
    full = f"rsd-{os.getpid()}-{name}"
    ip("netns", "add", full)
    try:
        ip("-n", full, "link", "set", "lo", "up")
        yield full
    finally:
        end_all(full)  # nothing of ours outlives the block
        subprocess.run(["ip", "netns", "del", full], check=False)


def end_all(space: str) -> None:
    """Kill every process of a namespace, as a power cut would."""
    for pid in subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


class Machine(NamedTuple):
    """A namespace on a switch."""

    space: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The command that runs `words` there."""
        return ["ip", "netns", "exec", self.space, *words]


@contextmanager
def switched(count: int) -> Iterator[list[Machine]]:
    """`count` machines, each with a cable to one switch: interface eth0, addresses 10.77.0.1 and on."""
    with ExitStack() as stack:
        switch = stack.enter_context(namespace("switch"))
        ip("-n", switch, "link", "add", "hub", "type", "bridge")
        ip("-n", switch, "link", "set", "hub", "up")
        machines = []
        for number in range(1, count + 1):
            machine = Machine(stack.enter_context(namespace(f"node-{number}")), f"10.77.0.{number}")
            port = f"port{number}"
            ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine.space)
            ip("-n", switch, "link", "set", port, "master", "hub", "up")
            ip("-n", machine.space, "address", "add", f"{machine.address}/24", "dev", "eth0")
            ip("-n", machine.space, "link", "set", "eth0", "up")
            machines.append(machine)
        yield machines
