"""Nodes that meet, part and die, with stand-ins for the stages."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from rsd.machine import node_stage, nodes
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.machine.node import Node
from rsd.machine.node_stage import announce, connect
from rsd.machine.nodes import follow, lead

TWO = ComputeOptions(device="cpu", processes=2, nodes=2)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """No command of these tests needs time to end."""
    monkeypatch.setattr(nodes, "GRACE", 1.0)


class Follower(threading.Thread):
    """A later node in a thread; what it ends with."""

    def __init__(self, port, node=1):
        super().__init__(daemon=True)
        self.place, self.sentence = Node(node, "127.0.0.1", port), None
        self.start()

    def run(self):
        try:
            follow(self.place)
        except (UserError, OSError) as error:
            self.sentence = str(error)

    def words(self):
        self.join(30)
        assert not self.is_alive()
        return self.sentence


# The command waits for node 1, and ends as its arguments say.
COMMAND = """
import os, sys, time
from rsd.machine.node_stage import connect
host, port = os.environ["RSD_NODES"].split(":")
store = connect(host, int(port))
store.get("address/1")
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


def command(seconds, status=0):
    return [sys.executable, "-c", COMMAND, str(seconds), str(status)]


@pytest.mark.parametrize(("status", "sentence"), [(0, None), (3, "the first node's command ended with status 3")])
def test_the_others_end_with_the_first(port, capfd, status, sentence):
    follower = Follower(port)
    assert lead(Node(0, "", port), command(0, status)) == status
    words = follower.words()
    assert words == sentence or words.startswith(sentence)
    assert ("warning: no stage needed the other nodes" in capfd.readouterr().err) == (not status)


def test_two_nodes_of_one_number_are_refused(port):
    followers = [Follower(port), Follower(port)]
    lead(Node(0, "", port), command(3))
    first, second = sorted([follower.words() or "" for follower in followers])
    assert first == ""
    assert second.startswith("expected one node 1, found a second; give each node a number of its own")


def test_a_leader_that_never_comes_is_missed(port, monkeypatch):
    monkeypatch.setattr(nodes, "WAIT", 0.6)
    with pytest.raises(UserError) as error:
        follow(Node(1, "127.0.0.1", port))
    assert str(error.value).startswith(
        f"expected the first node at 127.0.0.1:{port} within 0.01 minutes, found none (Connection refused); run `rsd "
    )


def test_a_taken_port_is_one_sentence(port):
    with socket.create_server(("", port)), pytest.raises(UserError) as error:
        lead(Node(0, "", port), ["true"])
    assert str(error.value).startswith(f"expected port {port} to be free for the other nodes, found it taken; ")


def test_a_command_that_is_none_is_one_sentence(port):
    with pytest.raises(UserError, match="expected a command that can be run, found nonesuch: No such file"):
        lead(Node(0, "", port), ["nonesuch"])


SILENT = """
import sys
from rsd.machine.node_stage import connect
store = connect("127.0.0.1", int(sys.argv[1]))
store.set("address/1", "10.0.0.2")
store.set("pulse/1", "7")
store.set("arrival/1", "1")
"""


def test_a_node_that_falls_silent_ends_the_run(port, monkeypatch, tmp_path):
    monkeypatch.setattr(nodes, "SILENCE", 2)
    started = time.monotonic()
    script = f"{sys.executable} -c '{SILENT}' {port}; echo $$ > {tmp_path}/pid; sleep 300"
    with pytest.raises(UserError, match=r"node 1 .10.0.0.2. gave no sign of life for 2 seconds") as error:
        lead(Node(0, "", port), ["sh", "-c", script])
    assert "run the same commands again to go on from the last checkpoint" in str(error.value)
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# The command does what the starter of a stage does.
STAGE = """
import sys
from pathlib import Path
from rsd.machine.node_stage import part
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
try:
    with part("stages.distill", ["rsd", "0"], ComputeOptions(processes=2, nodes=2), [Path("input")]) as own:
        print(own.torchrun(ComputeOptions(processes=2, nodes=2)))
except UserError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture
def parts(monkeypatch):
    """The stages that a later node takes part in, without doing so."""
    names = []

    def take(node, stage, connection):
        names.append(stage.name)
        if "fail" in stage.arguments:
            raise UserError("a fault of its own")

    monkeypatch.setattr(nodes, "_take_part", take)
    return names


def test_a_node_with_equal_inputs_takes_part(port, parts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").write_text("1")
    follower = Follower(port)
    assert lead(Node(0, "", port), [sys.executable, "-c", STAGE]) == 0
    assert follower.words() is None
    assert parts == ["distill rsd 0"]
    assert "'--nnodes', '2', '--node-rank', '0', '--master-addr', '127.0.0.1'" in capfd.readouterr().out


def test_another_input_is_said_on_both_sides(port, parts, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").write_text("1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "input").write_text("2")
    follower = Follower(port)
    with pytest.raises(UserError) as error:
        lead(Node(0, "", port), ["sh", "-c", f"cd other && exec {sys.executable} -c '{STAGE}'"])
    sentence = "expected node 1 to have the first node's input, found another; let the nodes share one folder"
    assert str(error.value).startswith(sentence)
    assert follower.words().startswith(sentence)
    assert f"error: {sentence}" in capfd.readouterr().err
    assert parts == []


def test_a_node_too_many_is_refused(port, parts):
    follower = Follower(port, node=2)
    script = COMMAND.replace("address/1", "address/2") + (
        "\nfrom rsd.machine.node_stage import Announcement\n"
        "store.set('stage/1', Announcement(number=1, module='stages.teacher', arguments=[], nodes=2, port=1, "
        "inputs=[], digests={}).model_dump_json())\ntime.sleep(300)"
    )
    script = script.replace("sys.exit(int(sys.argv[2]))", "")
    with pytest.raises(UserError, match="expected nodes 0 to 1 .compute.nodes is 2., found node 2; end it"):
        lead(Node(0, "", port), [sys.executable, "-c", script, "0"])
    assert follower.words().startswith("expected nodes 0 to 1")


def test_a_failure_of_one_ends_all(port, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    follower = Follower(port)
    script = STAGE.replace('"rsd", "0"', '"fail"') + "\nimport time; time.sleep(300)"
    with pytest.raises(UserError, match=r"^node 1 .127.0.0.1.: a fault of its own$"):
        lead(Node(0, "", port), [sys.executable, "-c", script])
    assert follower.words() == "a fault of its own"


def test_a_file_that_cannot_be_read_ends_all(port, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def broken(node, stage):
        raise PermissionError(13, "Permission denied", "out/views")

    monkeypatch.setattr(nodes, "refusal", broken)
    follower = Follower(port)
    with pytest.raises(UserError, match=r"^node 1 .127.0.0.1.: .* Permission denied: 'out/views'$"):
        lead(Node(0, "", port), [sys.executable, "-c", STAGE])
    assert "Permission denied" in follower.words()
    assert parts == []


def test_a_second_interrupt_kills_the_command(monkeypatch):
    monkeypatch.setattr(nodes, "GRACE", 60.0)
    deaf = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    nodes._end(process)
    assert process.returncode == -signal.SIGKILL


def test_a_missing_node_is_named(port, monkeypatch, capsys):
    monkeypatch.setattr(node_stage, "WAIT", 0.5)
    monkeypatch.setattr(node_stage, "HINT", 0.1)
    store = nodes._host(port)
    with pytest.raises(UserError, match="expected node 1 within 0 minutes, found none; run `rsd nodes -- dvc repro`"):
        announce(connect("127.0.0.1", port), "stages.distill", [], TWO, [], host="127.0.0.1", port=port)
    assert "waiting for node 1: run `rsd nodes --node 1 --leader HOST` there" in capsys.readouterr().err
    del store
