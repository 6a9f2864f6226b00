"""A run over several nodes: the first runs a command, such as `dvc repro`, and the others follow its stages."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from rsd.machine.errors import UserError
from rsd.machine.node import Node
from rsd.machine.node_stage import (
    CALL,
    COMMANDS,
    COUNT,
    FAILED,
    OVER,
    PART,
    SILENCE,
    STORE,
    WAIT,
    Announcement,
    Part,
    connect,
    refusal,
)

if TYPE_CHECKING:
    from torch.distributed import TCPStore

GRACE = 10.0
"""Seconds that a command has to end by itself, and again after an interrupt, before it is killed."""
AGAIN = "run the same commands again to go on from the last checkpoint"


def lead(node: Node, command: Sequence[str]) -> int:
    """Run `command` as the first node, and end it when another node dies.

    Returns:
        The command's exit status.

    Raises:
        UserError: the port is taken, the command cannot be run, or another node has died or cannot go on.
        KeyboardInterrupt: a signal has ended this process, which has ended the command and the other nodes.
    """
    store = _host(node.port)
    watch = _Watch(store)
    variables = {STORE: f"127.0.0.1:{node.port}"} | ({COUNT: str(node.started)} if node.started else {})
    try:
        process = subprocess.Popen(command, env=os.environ | variables, start_new_session=True)
    except OSError as error:
        raise UserError(f"expected a command that can be run, found {command[0]}: {error.strerror}") from error
    sentence = "the first node was interrupted"
    try:
        while process.poll() is None and not watch.fault():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        if fault := watch.fault():
            sentence = fault
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE / 2)  # its own sentence comes first, if it has one
            raise UserError(fault)
        status = process.returncode
        if not status and watch.nodes and not store.check(["stages"]):
            print(
                "warning: no stage needed the other nodes: compute.nodes is 1, or all was up to date", file=sys.stderr
            )
        sentence = f"the first node's command ended with status {status}" if status else ""
        return status
    finally:
        _end(process)
        store.set(OVER, sentence)
        watch.wait()


def _host(port: int) -> "TCPStore":
    from torch.distributed import TCPStore

    try:
        return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    except RuntimeError as error:
        raise UserError(
            f"expected port {port} to be free for the other nodes, found it taken; end what listens there, or give "
            "all nodes another: --leader HOST:PORT"
        ) from error


class _Watch:
    """Looks after the other nodes, once a second: counting looks, not seconds, forgives a pause of this machine."""

    def __init__(self, store: "TCPStore") -> None:
        self.store = store
        self.pulses: dict[int, tuple[bytes, int]] = {}
        """Of each node: its last sign of life, and how many looks saw no new one."""
        self.nodes: list[int] = []
        self.sentence = ""

    def fault(self) -> str:
        """What ends the run; empty while all is well."""
        if self.sentence:
            return self.sentence
        if self.store.check([FAILED]):
            self.sentence = self.store.get(FAILED).decode()
        for node in self._nodes():
            pulse = self.store.get(f"pulse/{node}")
            before, looks = self.pulses.get(node, (b"", 0))
            self.pulses[node] = (pulse, looks + 1 if pulse == before else 0)
            if looks >= SILENCE:
                self.sentence = (
                    f"node {node} ({self.store.get(f'address/{node}').decode()}) gave no sign of life for {SILENCE} "
                    f"seconds: it has died, or the network between it and this node has; {AGAIN}"
                )
        return self.sentence

    def _nodes(self) -> list[int]:
        """Those that have come."""
        while self.store.check([key := f"arrival/{len(self.nodes) + 1}"]):
            self.nodes.append(int(self.store.get(key)))
        return self.nodes

    def wait(self) -> None:
        """Give the nodes that live the time to read how the run ended."""
        deadline = time.monotonic() + CALL
        while not all(self.store.check([f"bye/{node}"]) for node in self.nodes) and time.monotonic() < deadline:
            time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the command's process group, as by Ctrl-C, so that DVC releases its locks; then kill what is left.

    A second Ctrl-C kills at once.
    """
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(timeout=GRACE)


def interrupt_by_terminate() -> None:
    """Let SIGTERM, which Slurm sends, and the loss of the terminal end this process like Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    for name in (signal.SIGTERM, signal.SIGHUP):  # the command lives in a session of its own, without this terminal
        signal.signal(name, interrupt)


def follow(node: Node) -> None:
    """Take part in every stage that the first node announces, until its run is over.

    Raises:
        UserError: the first node does not come, or is gone; the run has failed there; another process is this node; or
            this node cannot take part, which the first node is told.
        KeyboardInterrupt: a signal has ended this process; the first node is told.
    """
    own = _reach(node, WAIT)
    store = connect(node.leader, node.port)
    if store.add(f"node/{node.number}", 1) > 1:
        raise UserError(
            f"expected one node {node.number}, found a second; give each node a number of its own, or end the whole "
            "run before you start it again"
        )
    store.set(f"address/{node.number}", own)
    store.set(f"pulse/{node.number}", "")
    store.set(f"arrival/{store.add('arrivals', 1)}", str(node.number))
    connection = _Connection(store, node.number)
    connection.start()
    fault = ""
    print(f"node {node.number} follows {node.leader}:{node.port}", flush=True)
    try:
        while stage := connection.next():
            fault = refusal(node.number, stage)
            connection.say(f"answer/{stage.number}/{node.number}", fault)
            if fault:
                raise UserError(fault)
            print(f"node {node.number}: {stage.name}", flush=True)
            _take_part(node, stage, connection)
    except (UserError, OSError) as error:
        connection.say(FAILED, fault or f"node {node.number} ({own}): {error}")
        raise
    except KeyboardInterrupt:
        connection.say(FAILED, f"node {node.number} ({own}) was interrupted; {AGAIN}")
        raise
    finally:
        connection.stop()
    if connection.sentence:
        raise UserError(f"{connection.sentence}; see its output")
    print(f"node {node.number}: the run is over", flush=True)


def _reach(node: Node, wait: float) -> str:
    """Wait for the first node; this node's own address on the way to it."""
    deadline, fault = time.monotonic() + wait, ""
    while True:
        try:
            with socket.create_connection((node.leader, node.port), timeout=5) as connection:
                return str(connection.getsockname()[0])
        except OSError as error:
            fault = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise UserError(
                f"expected the first node at {node.leader}:{node.port} within {wait / 60:g} minutes, found none "
                f"({fault}); {COMMANDS}"
            )
        time.sleep(0.5)


def _take_part(node: Node, stage: Announcement, connection: "_Connection") -> None:
    """Run the stage's part on this node.

    Raises:
        UserError: it failed, with its own sentence if it has one; or the first node is gone.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "error.json"
        own = Part(node.number, node.leader, stage.port, node.port, peer=node.leader)
        process = subprocess.Popen(
            [sys.executable, "-m", stage.module, *stage.arguments],
            env=os.environ | {PART: json.dumps(own), "TORCHELASTIC_ERROR_FILE": str(file)},  # see stages.run
            start_new_session=True,
        )
        try:
            while process.poll() is None and not connection.is_over():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        finally:
            _end(process)
        if process.returncode and not connection.is_over():
            end = f"its part of {stage.name} ended with status {process.returncode}; {AGAIN}"
            raise UserError(json.loads(file.read_text())["message"] if file.is_file() else end)


class _Connection(threading.Thread):
    """A later node's connection. All goes through this thread: a call to a machine that has vanished never returns."""

    def __init__(self, store: "TCPStore", node: int) -> None:
        super().__init__(daemon=True)
        self.store, self.node = store, node
        self.outbox: queue.Queue[tuple[str, str]] = queue.Queue()
        self.inbox: queue.Queue[str] = queue.Queue()
        self.number = 1
        """Of the next stage."""
        self.beats = 0
        self.ended = False
        self.stopped = threading.Event()
        self.sentence = ""
        """Why the run has failed."""
        self._looks = (0, 0)

    def run(self) -> None:
        try:
            while True:
                last = self.stopped.is_set()
                while not self.outbox.empty():
                    self.store.set(*self.outbox.get())
                if last:
                    return
                self.store.set(f"pulse/{self.node}", str(self.beats))
                if self.store.check([key := f"stage/{self.number}"]):
                    self.inbox.put(self.store.get(key).decode())
                    self.number += 1
                if self.store.check([OVER]):
                    self.sentence = self.store.get(OVER).decode()
                    self.ended = True
                    self.store.set(f"bye/{self.node}", "")
                    return
                self.beats += 1
                self.stopped.wait(0.2)
        except RuntimeError:
            self.sentence = f"the first node is gone; {AGAIN}"
            self.ended = True

    def is_over(self) -> bool:
        """Whether the run is over. To be called about five times a second, as often as the thread goes round.

        Raises:
            UserError: the first node gives no sign of life.
        """
        beats, looks = self._looks
        self._looks = (self.beats, looks + 1 if beats == self.beats else 0)
        if looks >= 5 * SILENCE and not self.ended:
            raise UserError(f"the first node gave no sign of life for {SILENCE} seconds; {AGAIN}")
        return self.ended

    def next(self) -> Announcement | None:
        """Wait for the next stage; None when the run is over.

        Raises:
            UserError: the first node gives no sign of life, or announces what this version does not know.
        """
        while not self.is_over():
            with suppress(queue.Empty):
                try:
                    return Announcement.model_validate_json(self.inbox.get(timeout=0.2))
                except ValidationError as error:
                    raise UserError(
                        "expected a stage of this project from the first node, found another message; give all nodes "
                        "the same version of the project"
                    ) from error
        return None

    def say(self, key: str, value: str) -> None:
        self.outbox.put((key, value))

    def stop(self) -> None:
        """End the thread when all is sent, unless its machine has vanished."""
        self.stopped.set()
        self.join(CALL)
