"""One stage of a run over several nodes: what the first node announces to the others, and each node's part in it.

The nodes talk through a TCPStore, torch's own store of keys and values, which the first node's `rsd nodes` hosts.
"""

import hashlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field

from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.machine.files import sha256
from rsd.machine.unfinished import software_versions

if TYPE_CHECKING:
    from torch.distributed import TCPStore

STORE = "RSD_NODES"
"""The environment variable that tells a stage of the first node the store's HOST:PORT."""
COUNT = "RSD_NODES_STARTED"
"""How many nodes Slurm has started; not set without Slurm."""
PART = "RSD_NODES_PART"
"""What a stage of a later node is told: a `Part`."""
OVER, FAILED = "over", "failed"
"""Keys of the store: how the run ended, and why a later node cannot go on."""
WAIT = 600.0
"""Seconds for a node to come."""
HINT = 5.0
"""Seconds until someone is told that it is missing."""
COMMANDS = "run `rsd nodes -- dvc repro` on the first node and `rsd nodes --node 1 --leader HOST` on the next"

CALL = 5.0
"""Seconds that a call to the store may take at the end."""
SILENCE = 20
"""Seconds without a sign of life after which a node counts as dead."""


class Announcement(BaseModel):
    """What a later node needs to know of a stage."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(gt=0)
    """The stages of a run that take several nodes, counted from 1."""
    module: Annotated[str, Field(pattern=r"^stages\.\w+$")]
    arguments: list[str]
    nodes: int
    port: int
    """Of torchrun's rendezvous on the first node."""
    inputs: list[str]
    """Files and folders that the stage reads, relative to the project's folder."""
    digests: dict[str, str]
    """See `digests`."""
    gpu: bool | None = None
    """Whether the first node has a GPU; None where the stage computes on the CPU in any case."""

    @property
    def name(self) -> str:
        """As DVC calls it, nearly."""
        return " ".join([self.module.removeprefix("stages."), *self.arguments])


class Part(NamedTuple):
    """One node's part in a stage."""

    node: int
    leader: str
    """Address of the first node, as seen from here."""
    port: int
    """Of torchrun's rendezvous."""
    store: int
    """Port of the store."""
    peer: str
    """Address of a node that is reached through the network interface to use."""

    def torchrun(self, options: ComputeOptions) -> list[str]:
        """Arguments of torchrun for this node."""
        return [
            *("--nnodes", str(options.nodes), "--node-rank", str(self.node)),
            *("--master-addr", self.leader, "--master-port", str(self.port)),
            *("--nproc-per-node", str(options.processes // options.nodes)),
        ]


def digests(inputs: Sequence[str | Path]) -> dict[str, str]:
    """SHA-256 of every file that a stage's numbers depend on, by its path: the code, the inputs; and the versions.

    Args:
        inputs: files and folders; one that is not there has no digest.
    """
    project = Path(__file__).parents[2]
    code = [file for room in ("rsd", "stages") for file in sorted((project / room).rglob("*.py"))]
    named = {str(file.relative_to(project)): file for file in code}
    own = sorted(Path("methods").glob("*.py"))  # a user's methods lie in the current folder
    for path in [*own, *map(Path, inputs)]:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        named |= {str(file): file for file in files}
    versions = {
        f"version of {name}": hashlib.sha256(version.encode()).hexdigest()
        for name, version in software_versions().items()
    }
    return versions | {name: _digest(file) for name, file in named.items() if file.is_file()}


def _digest(file: Path) -> str:
    state = file.stat()
    return _digest_in_state(file, state.st_size, state.st_mtime_ns)


@cache  # a later node hashes a large file once, not for each stage
def _digest_in_state(file: Path, size: int, modified: int) -> str:
    return sha256(file)


def refusal(node: int, stage: Announcement) -> str:
    """Why this node can have no part in the stage; empty if it can.

    Raises:
        OSError: a file cannot be read.
    """
    if node >= stage.nodes:
        return f"expected nodes 0 to {stage.nodes - 1} (compute.nodes is {stage.nodes}), found node {node}; end it"
    if stage.gpu is not None and stage.gpu != torch.cuda.is_available():
        expected, other, broken = ("a GPU", "none", "its") if stage.gpu else ("no GPU", "one", "the first node's")
        return (
            f"expected node {node} to have {expected}, like the first node, found {other}; mend {broken} driver, or "
            "set compute.device to cpu"
        )
    return difference(node, stage.digests, digests(stage.inputs))


def difference(node: int, leaders: Mapping[str, str], own: Mapping[str, str]) -> str:
    """The sentence for a node that does not have what the first one has; empty if it has all of it."""
    names = [name for name in {**leaders, **own} if leaders.get(name) != own.get(name)]
    if not names:
        return ""
    name, others = names[0], len(names) - 1
    state = "none" if name not in own else "one that the first node lacks" if name not in leaders else "another"
    more = f" (and {others} more differences)" if others else ""
    return (
        f"expected node {node} to have the first node's {name}, found {state}{more}; let the nodes share one folder, "
        "or bring this one up to date (git pull, dvc pull, rsync), and run the same commands again"
    )


def check_count(options: ComputeOptions) -> None:
    """Compare `compute.nodes` with the nodes that Slurm has started, if it has.

    Raises:
        UserError: they differ.
    """
    started = os.environ.get(COUNT)
    if started and int(started) != options.nodes:
        raise UserError(f"expected {options.nodes} nodes (compute.nodes), found {started} by Slurm; make the two equal")


@contextmanager
def part(module: str, arguments: Sequence[str], options: ComputeOptions, inputs: Sequence[Path]) -> Iterator[Part]:
    """This node's part in a stage over `options.nodes` nodes. The first node waits here until all have agreed.

    Inside the block SIGTERM ends this process when the run is over, or its first node gone.

    Raises:
        UserError: this process was not started by `rsd nodes`, a node does not come, or it has other inputs.
    """
    if text := os.environ.get(PART):
        own = Part(*json.loads(text))
        with _ended_with_run(connect(own.leader, own.store)):
            yield own
        return
    if not (endpoint := os.environ.get(STORE)):
        raise UserError(f"expected {options.nodes} nodes (compute.nodes), found one; {COMMANDS}")
    host, _, port = endpoint.rpartition(":")
    store = connect(host, int(port))
    own = announce(store, module, arguments, options, inputs, host=host, port=int(port))
    with _ended_with_run(store):
        yield own


def announce(
    store: "TCPStore",
    module: str,
    arguments: Sequence[str],
    options: ComputeOptions,
    inputs: Sequence[Path],
    *,
    host: str,
    port: int,
) -> Part:
    """Tell the other nodes what comes, and wait until each has the same inputs.

    Args:
        host: of the store; `port` is its port.

    Raises:
        UserError: a node does not come, or it has other inputs; the sentence is its own.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        free = probe.getsockname()[1]
    stage = Announcement(
        number=store.add("stages", 1),
        module=module,
        arguments=list(arguments),
        nodes=options.nodes,
        port=free,
        inputs=[str(path) for path in inputs],
        digests=digests(inputs),
        gpu=None if options.device == "cpu" else torch.cuda.is_available(),
    )
    store.set(f"stage/{stage.number}", stage.model_dump_json())
    for node in range(1, options.nodes):
        _await(store, node)
        # Without a limit: the node may hash large files, and `rsd nodes` notices if it dies.
        while not store.check([key := f"answer/{stage.number}/{node}"]):
            time.sleep(0.1)
        if sentence := store.get(key).decode():
            raise UserError(sentence)
    return Part(0, host, free, port, store.get("address/1").decode())


def _await(store: "TCPStore", node: int) -> None:
    started = time.monotonic()
    hint = False
    while not store.check([f"address/{node}"]):
        waited = time.monotonic() - started
        if waited > WAIT:
            raise UserError(f"expected node {node} within {WAIT / 60:.0f} minutes, found none; {COMMANDS}")
        if waited > HINT and not hint:
            print(f"waiting for node {node}: run `rsd nodes --node {node} --leader HOST` there", file=sys.stderr)
            hint = True
        time.sleep(0.1)


def connect(host: str, port: int) -> "TCPStore":
    """A client of the store.

    Raises:
        UserError: there is none.
    """
    from torch.distributed import TCPStore

    try:
        return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"expected the first node at {host}:{port}, found no `rsd nodes` there; {COMMANDS}") from error


@contextmanager
def _ended_with_run(store: "TCPStore") -> Iterator[None]:
    # A part must not go on beside one that resumes.
    done = threading.Event()

    def watch() -> None:
        try:
            while not store.check([OVER]):
                if done.wait(1):
                    return
        except RuntimeError:
            pass
        if not done.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(CALL)  # a thread within torch when Python ends would abort the process


def interface(peer: str) -> str | None:
    """The network interface through which an IPv4 address is reached, such as `eth0`; None where that is unknown.

    gloo by itself takes the one of this machine's name, which is often the loopback.
    """
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
        except OSError:
            return None
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
            except OSError:
                continue  # it has no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == own:
                return name
    return None
