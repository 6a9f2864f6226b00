"""How a step of RSD slows as it is spread over nodes, and a model of it that reaches further than this machine.

    python -m benchmarks.nodes      # takes root: the nodes are network namespaces

About five minutes. A node trains on 16 images of 32 x 32 with a ViT-Tiny of 5.4 M parameters and a stored teacher, in
one process with one thread over gloo. The nodes share this machine's cores: with more nodes than cores a step takes
longer without any link. `tc tbf` limits the rate at which each node sends. The model splits a step of N nodes into

    T(N) = C(N) + a * 2 (N - 1) * delay + b * 2 (N - 1) / N * bytes / rate

where C(N) is the step over a link that is not slowed, and the other terms are a ring all-reduce's: 2 (N - 1) messages
one after the other, which carry the gradients' bytes 2 (N - 1) / N times. `a` is the number of collective operations of
a step, counted by PyTorch's profiler; that none of their delays is hidden is the worst case. `b` says how often the
gradients are carried, less what is hidden behind the backward pass. It is fitted to the steps of two nodes alone; those
of four nodes check it. More nodes are predicted with C(1), as if each had a core of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from benchmarks.command import command
from benchmarks.interleaved import markdown, spread
from benchmarks.namespaces import Machine, switched, why_not
from benchmarks.pair import Case, bench
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.errors import UserError
from rsd.machine.parallel import leads, leave, wait
from rsd.models.make import ModelOptions

SHARE = 16
"""Images of each node in a step."""
CASE = Case(
    ModelOptions(name="resnet18"),
    ModelOptions(name="vit_tiny_patch16_224", args={"img_size": 32, "patch_size": 8}),
    shape=(32, 32, 3), batch=SHARE,
)  # fmt: skip
PORT = "29471"


class Link(NamedTuple):
    """What each node's cable is slowed to; zeros leave it as it is."""

    megabits: float = 0.0
    """Per second."""
    milliseconds: float = 0.0
    """Of delay, one way; for predictions."""

    def __str__(self) -> str:
        delay = f", {self.milliseconds:g} ms" if self.milliseconds else ""
        return f"{self.megabits:g} Mbit/s{delay}" if self.megabits else "not slowed"


class Row(NamedTuple):
    """The steps of one setting."""

    nodes: int
    link: Link
    seconds: list[float]
    """Of each step."""
    size: int
    """Bytes of all gradients."""
    operations: int
    """Collective ones of a step."""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


class Model(NamedTuple):
    """See the module's text."""

    operations: int
    """`a`."""
    copies: float
    """`b`."""

    def added(self, nodes: int, link: Link, size: int) -> float:
        """Seconds that the link adds to a step."""
        delay, carried = costs(nodes, link, size)
        return self.operations * delay + self.copies * carried


def costs(nodes: int, link: Link, size: int) -> tuple[float, float]:
    """Seconds of delay and of transfer of one ring all-reduce of `size` bytes."""
    if not link.megabits:
        return 0.0, 0.0
    hops = 2 * (nodes - 1)
    return hops * link.milliseconds / 1e3, hops / nodes * size * 8 / (link.megabits * 1e6)


def fit(rows: Sequence[Row]) -> Model:
    """Least squares over the slowed rows, each beside the row of as many nodes whose link is not slowed."""
    free = {row.nodes: row.median for row in rows if not row.link.megabits}
    slowed = [row for row in rows if row.link.megabits]
    weights = 1 / np.array([row.median for row in slowed])  # the error that counts is the relative one
    carried = weights * [costs(row.nodes, row.link, row.size)[1] for row in slowed]
    added = weights * [row.median - free[row.nodes] for row in slowed]
    return Model(rows[0].operations, float(carried @ added / (carried @ carried)))


LINKS = [Link(megabits) for megabits in (1000, 400, 200, 100)]
FURTHER = [Link(10_000, 0.05), Link(1000, 0.1)]
"""Of the clusters that are predicted."""


def measured(machines: Sequence[Machine], link: Link, steps: int) -> Row:
    """Train some steps with these machines' links slowed."""
    for machine in machines:
        if link.megabits:
            burst = max(500 * link.megabits, 128_000)  # bytes: four milliseconds, since the kernel's clock is coarse
            slowed = ["tbf", "rate", f"{link.megabits:g}mbit", "burst", f"{burst:.0f}", "latency", "400ms"]
            subprocess.run(machine.command("tc", "qdisc", "replace", "dev", "eth0", "root", *slowed), check=True)
        else:
            # There is nothing to delete before the first setting.
            subprocess.run(machine.command("tc", "qdisc", "del", "dev", "eth0", "root"), capture_output=True)
    shared = os.environ | {
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "KINETO_LOG_LEVEL": "6",
        "WORLD_SIZE": str(len(machines)), "LOCAL_RANK": "0", "MASTER_ADDR": machines[0].address, "MASTER_PORT": PORT,
        "GLOO_SOCKET_IFNAME": "eth0",
    }  # fmt: skip
    worker = [sys.executable, "-m", "benchmarks.nodes", "--worker", "--steps", str(steps)]
    with ExitStack() as stack:
        workers = []
        for rank, machine in enumerate(machines):
            process = subprocess.Popen(
                machine.command(*worker), env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            workers.append(process)
        output, *_ = [process.communicate()[0] for process in workers]
        if any(process.returncode for process in workers):
            raise UserError("expected every node to train, found one that did not; its words are above")
    seconds, size, operations = json.loads(output.splitlines()[-1])
    return Row(len(machines), link, seconds, size, operations)


def work(steps: int) -> None:
    """What each node runs; the first prints the seconds of each step, the gradients' bytes, and a step's operations."""
    count = int(os.environ["WORLD_SIZE"])
    device = set_up(ComputeOptions(device="cpu", processes=count))
    with tempfile.TemporaryDirectory() as folder:
        pair = bench(CASE, Path(folder), device)
        task = pair.rsd()
        step = pair.step(task, pair.stored)
        seconds = []
        for number in range(-2, steps):
            wait()
            start = time.perf_counter()
            step()
            wait()
            if number >= 0:
                seconds.append(time.perf_counter() - start)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        operations = sum(event.count for event in profile.key_averages() if event.key.startswith("gloo:"))
        size = sum(4 * parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    if leads():
        print(json.dumps([seconds, size, operations]), flush=True)
    leave()


def main(steps: int = 8, worker: bool = False) -> None:
    if worker:
        work(steps)
        return
    if reason := why_not("tc"):
        raise UserError(f"expected network namespaces, found {reason}")
    rows = []
    with switched(4) as machines:
        for count in (1, 2, 4):
            ways = [Link(), *LINKS] if count > 1 else [Link()]
            rows += [measured(machines[:count], link, steps) for link in ways]
    print(report(rows))


def report(rows: Sequence[Row]) -> str:
    """The measured steps beside the model, and what it predicts, as Markdown."""
    model = fit([row for row in rows if row.nodes == 2])
    free = {row.nodes: row.median for row in rows if not row.link.megabits}
    size = rows[0].size
    table = [
        {
            "nodes": str(row.nodes),
            "link of each node": str(row.link),
            "step, s": spread(pd.Series(row.seconds)),
            "model, s": f"{free[row.nodes] + model.added(row.nodes, row.link, size):.2f}" if row.link.megabits else "",
        }
        for row in rows
    ]
    errors = [
        abs(free[row.nodes] + model.added(row.nodes, row.link, size) - row.median) / row.median
        for row in rows
        if row.nodes > 2 and row.link.megabits
    ]
    further = [
        {
            "nodes": str(count),
            **{str(link): prediction(free[1], model.added(count, link, size)) for link in FURTHER},
        }
        for count in (2, 4, 8, 64)
    ]
    return (
        f"{SHARE} images per node, {size / 1e6:.1f} MB of gradients, {torch.get_num_threads()} thread per node, all "
        f"nodes on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median and quartiles of "
        f"{len(rows[0].seconds)} steps\n\n{markdown(table)}\n\n"
        f"a = {model.operations}, b = {model.copies:.2f}, from two nodes; the steps of four nodes differ from "
        f"the model by {100 * min(errors):.0f} to {100 * max(errors):.0f} %\n\n{markdown(further)}"
    )


def prediction(alone: float, extra: float) -> str:
    """A step's seconds, and the share of it that is not the link's."""
    return f"{alone + extra:.2f} s, {100 * alone / (alone + extra):.0f} %"


if __name__ == "__main__":
    command(main, __doc__)
