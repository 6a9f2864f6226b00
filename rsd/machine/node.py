"""Which of several machines this one is: by the command's options, or by Slurm's environment."""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from rsd.machine.errors import UserError

PORT = 29400
"""Where the first node listens, unless told otherwise."""
PORTS = 1000
"""Slurm jobs that meet on one machine take different ports from here on."""


class Node(NamedTuple):
    """Which node this is, and where the first one is reached."""

    number: int
    """From 0; node 0 leads."""
    leader: str
    """Host name or address of node 0; empty on node 0 itself."""
    port: int
    started: int | None = None
    """Nodes that Slurm has started; None without Slurm."""


def this_node(node: int | None, leader: str | None, environment: Mapping[str, str]) -> Node:
    """The node that the options state; where they state none, that of Slurm's environment.

    Args:
        node: from 0.
        leader: HOST or HOST:PORT of node 0. Node 0 itself takes the port only.
        environment: of this process.

    Raises:
        UserError: a later node does not know the leader, or Slurm's environment is incomplete.
    """
    if node is None and leader is None and "SLURM_NODEID" in environment:
        return _slurms(environment)
    host, port = _endpoint(leader) if leader else ("", PORT)
    number = node if node is not None else 0
    if number and not host:
        raise UserError(f"expected node {number} to know the first node, found no --leader; add --leader HOST")
    if node is None and leader:
        raise UserError("expected the number of this node with --leader, found none; add --node 1 (the first is 0)")
    return Node(number, host if number else "", port)


def _endpoint(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or re.search(r"[/?#@\s]", text):
        raise UserError(f"--leader: expected HOST or HOST:PORT, found '{text}'")
    return host, port or PORT


def _slurms(environment: Mapping[str, str]) -> Node:
    node = _number(environment, "SLURM_NODEID")
    count = _number(environment, "SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES")
    if _number(environment, "SLURM_LOCALID", default=0):
        raise UserError(
            f"expected one task on each node, found a second on node {node}; give srun --ntasks-per-node=1, "
            "the stages start their processes themselves"
        )
    if node >= count:
        raise UserError(f"expected a node from 0 to {count - 1} in Slurm's environment, found SLURM_NODEID={node}")
    lists = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")  # a step may have some of a job's nodes
    nodes = next((environment[name] for name in lists if environment.get(name)), "")
    port = PORT + _number(environment, "SLURM_JOB_ID", default=0) % PORTS
    return Node(node, first_host(nodes) if node else "", port, count)


def _number(environment: Mapping[str, str], *names: str, default: int | None = None) -> int:
    text = next((environment[name] for name in names if environment.get(name)), None)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"\d+", text, re.ASCII):
        raise UserError(
            f"{names[0]}: expected a number in Slurm's environment, found {text or 'none'}; start it by srun, "
            "or give --node and --leader"
        )
    return int(text)


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: `gpu[03-05,9],login` gives gpu03.

    Raises:
        UserError: it is no such list.
    """
    match = re.match(r"(?:[\w.-]|\[\d[\d,-]*\])+(?=,|$)", nodes, re.ASCII)
    if not match:
        raise UserError(
            f"SLURM_JOB_NODELIST: expected names of hosts, found '{nodes}'; start it by srun, or give --node and "
            "--leader"
        )
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", match[0])
