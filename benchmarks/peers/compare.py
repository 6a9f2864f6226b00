"""Which trainers of `benchmarks.peers` are compared, whether they may be, and what each takes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import torch

from benchmarks.interleaved import interleaved, spread
from benchmarks.peers.trainers import CASES, Bench, Trainer, bench, first_step, ours, timm_task
from rsd.machine.errors import UserError
from rsd.training.health import peak_megabytes

COUNTERPARTS = {
    "kd": ["timm", "torchdistill"],
    "dist": ["torchdistill"],
    "rkd": ["torchdistill"],
    "crd": ["torchdistill"],
    "rsd": ["timm"],
}
OTHER_LOSS = ("rsd", "timm")
"""Its two losses differ by design; only their cost is compared."""
LARGEST = {"loss": 1e-5, "gradient": 1e-4}
"""Largest relative differences, in float32, between two implementations of one loss."""


class Way(NamedTuple):
    """A way to train: a method, by us or by a peer."""

    method: str
    by: str
    """ours, stored, timm or torchdistill."""


def ways(peers: Sequence[str]) -> list[Way]:
    """Every way to train by the methods that one of `peers` offers."""
    return [
        Way(method, by)
        for method, have in COUNTERPARTS.items()
        if set(have) & set(peers)
        for by in ("ours", "stored", *(peer for peer in have if peer in peers))
    ]


def trainer(bench: Bench, way: Way) -> Trainer:
    """Trains the models of `bench` themselves, not a copy."""
    if way.by == "timm":
        return timm_task(bench, way.method)
    if way.by == "torchdistill":
        from benchmarks.peers.boxes import torchdistill_box  # which is an ImportError without torchdistill

        return torchdistill_box(bench, way.method)
    return ours(bench, way.method, stored=way.by == "stored")


def check_agreement(bench: Bench, way: Way) -> float:
    """By how much, relatively, the student's clipped gradient of a peer's first step differs from ours.

    Raises:
        UserError: it, or the loss, differs by more than rounding: timing the two would compare different work.
    """
    own_loss, own_gradient = first_step(trainer(bench.copy(), Way(way.method, "ours")))
    loss, gradient = first_step(trainer(bench.copy(), way))
    differs = {
        "loss": abs(loss - own_loss) / abs(own_loss),
        "gradient": float((gradient - own_gradient).norm() / own_gradient.norm()),
    }
    if any(not differs[name] <= most for name, most in LARGEST.items()):
        raise UserError(
            f"expected {way.method} by {way.by} to be the same loss as ours, found that at the first step the loss "
            f"differs by {differs['loss']:.1e} and the gradient by {differs['gradient']:.1e}, relatively; the "
            "comparison is void: see what has changed in either"
        )
    return differs["gradient"]


def compared(
    name: str, ways_of_pair: Sequence[Way], device: torch.device, *, rounds: int, clock: Callable[[], float]
) -> tuple[pd.DataFrame, dict[Way, float]]:
    """Seconds of a step of each way (columns) in each round, and what `check_agreement` says of the peers.

    Raises:
        UserError: a peer trains by another loss.
    """
    with TemporaryDirectory() as folder:
        setting = bench(CASES[name], Path(folder), device)
        differs = {
            way: check_agreement(setting, way)
            for way in ways_of_pair
            if way.by not in ("ours", "stored") and way != OTHER_LOSS
        }
        steps = {way: trainer(setting.copy(), way).step for way in ways_of_pair}
        turns = {" ".join(way): partial(_synchronized, step, device) for way, step in steps.items()}
        times = interleaved(turns, rounds=rounds, warmup=1, clock=clock)
    return times, differs


def _synchronized(step: Callable[[], object], device: torch.device) -> None:
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak(name: str, way: Way | None, device: torch.device) -> float:
    """Peak memory of this process after two steps, in MB; without a step if `way` is None."""
    torch.set_num_threads(1)
    if way is not None:
        with TemporaryDirectory() as folder:
            stepper = trainer(bench(CASES[name], Path(folder), device), way)
            stepper.step()
            stepper.step()  # with all that the optimiser keeps
    return peak_megabytes(device)


def peaks(cells: Sequence[tuple[str, Way | None]], device: torch.device) -> list[float]:
    """`peak` of each cell, in a fresh process that has imported this module only."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.peers.compare"])
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(peak, *zip(*cells, strict=True), [device] * len(cells)))


def rows(name: str, times: pd.DataFrame, differs: dict[Way, float], peaks: dict[Way, float]) -> list[dict[str, str]]:
    """A row for each peer of each method.

    Args:
        times, differs: see `compared`.
        peaks: MB.
    """
    lines = []
    for way in peaks:
        if way.by in ("ours", "stored"):
            continue
        own, stored = Way(way.method, "ours"), Way(way.method, "stored")
        seconds = {one: times[" ".join(one)] for one in (own, stored, way)}
        line = {"pair": name, "loss": way.method, "peer": way.by}
        line |= {"ours, s": spread(seconds[own]), "peer, s": spread(seconds[way])}
        line |= {f"peer / {one.by}": spread(seconds[way] / seconds[one]) for one in (own, stored)}
        line |= {"ours, MB": f"{peaks[own]:.0f}", "stored, MB": f"{peaks[stored]:.0f}", "peer, MB": f"{peaks[way]:.0f}"}
        lines.append(line | {"gradients differ by": f"{differs[way]:.0e}" if way in differs else "another loss"})
    return lines
