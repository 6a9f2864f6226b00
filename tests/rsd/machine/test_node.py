"""Where a node stands: by its options, or by what Slurm says."""

import random
import string

import pytest

from rsd.machine.errors import UserError
from rsd.machine.node import PORT, Node, first_host, this_node

SLURM = {"SLURM_NODEID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_LOCALID": "0"}


def test_a_node_alone_leads():
    assert this_node(None, None, {}) == Node(0, "", PORT)


@pytest.mark.parametrize(
    ("leader", "expected"),
    [
        ("head", Node(1, "head", PORT)),
        ("head:29500", Node(1, "head", 29500)),
        ("10.0.0.1:29500", Node(1, "10.0.0.1", 29500)),
        ("[fd00::1]:29500", Node(1, "fd00::1", 29500)),
    ],
)
def test_a_later_node_reaches_the_leader(leader, expected):
    assert this_node(1, leader, SLURM) == expected  # the options come before Slurm's environment


def test_the_leader_takes_the_port_only():
    assert this_node(0, "anything:29500", {}) == Node(0, "", 29500)


@pytest.mark.parametrize(
    ("node", "leader", "sentence"),
    [
        (1, None, "expected node 1 to know the first node, found no --leader; add --leader HOST"),
        (None, "head", "expected the number of this node with --leader, found none"),
        (1, "head:port", "--leader: expected HOST or HOST:PORT, found 'head:port'"),
        (1, "head:99999", "--leader: expected HOST or HOST:PORT"),
        (1, ":29500", "--leader: expected HOST or HOST:PORT"),
        (1, "http://head", "--leader: expected HOST or HOST:PORT"),
        (1, "a head", "--leader: expected HOST or HOST:PORT"),
    ],
)
def test_a_wrong_option_is_one_sentence(node, leader, sentence):
    with pytest.raises(UserError) as error:
        this_node(node, leader, {})
    assert str(error.value).startswith(sentence)


def test_slurms_environment_is_taken_as_it_is():
    assert this_node(None, None, SLURM) == Node(1, "gpu03", PORT, 2)
    assert this_node(None, None, SLURM | {"SLURM_NODEID": "0"}) == Node(0, "", PORT, 2)
    older = {"SLURM_NNODES" if key == "SLURM_JOB_NUM_NODES" else key: value for key, value in SLURM.items()}
    assert this_node(None, None, older) == Node(1, "gpu03", PORT, 2)


def test_slurms_jobs_take_ports_of_their_own():
    ports = {this_node(None, None, SLURM | {"SLURM_JOB_ID": str(job)}).port for job in range(4_000, 5_000)}
    assert ports == set(range(PORT, PORT + 1000))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"SLURM_JOB_NUM_NODES": ""}, "SLURM_STEP_NUM_NODES: expected a number in Slurm's environment, found none"),
        ({"SLURM_NODEID": "x"}, "SLURM_NODEID: expected a number in Slurm's environment, found x"),
        ({"SLURM_NODEID": "2"}, "expected a node from 0 to 1 in Slurm's environment, found SLURM_NODEID=2"),
        ({"SLURM_LOCALID": "1"}, "expected one task on each node, found a second on node 1"),
        ({"SLURM_JOB_NODELIST": ""}, "SLURM_JOB_NODELIST: expected names of hosts, found ''"),
    ],
)
def test_a_broken_slurm_environment_is_one_sentence(change, sentence):
    with pytest.raises(UserError) as error:
        this_node(None, None, SLURM | change)
    assert str(error.value).startswith(sentence)


def test_first_host_is_that_of_the_list():
    """Lists written from their hosts, as Slurm folds them."""
    draw = random.Random(0)
    for _ in range(300):
        name = "".join(draw.choices(string.ascii_lowercase, k=3)) + draw.choice(["", "-", ".", "_"])
        width, start = draw.randint(1, 4), draw.randint(0, 9)
        first = f"{start:0{width}}"
        ranges = [first + draw.choice(["", f"-{start + 3:0{width}}"]), *draw.choices(["12", "15-17"], k=2)]
        folded = f"[{','.join(ranges[: draw.randint(1, 3)])}]"
        tail = draw.choice(["", "-ib"])
        others = draw.choice(["", ",login", ",other[1-2],x3"])
        assert first_host(f"{name}{folded}{tail}{others}") == f"{name}{first}{tail}"
        assert first_host(f"{name}{first}{others}") == f"{name}{first}"
    assert first_host("rack[1-2]n[3,5]") == "rack1n3"


@pytest.mark.parametrize("nodes", ["[", "gpu[", "gpu[1-2", "gpu[]", "gpu[a]", ",gpu1", "gpu 1", "gpu;1"])
def test_no_list_of_hosts_is_refused(nodes):
    with pytest.raises(UserError, match="SLURM_JOB_NODELIST"):
        first_host(nodes)
