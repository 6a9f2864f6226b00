"""Our training step beside timm's distillation tasks and torchdistill: step time and peak memory.

    python -m benchmarks.peers
    python -m benchmarks.peers --clock cpu      # on a machine that does other work meanwhile
    python -m benchmarks.peers --peers timm     # without torchdistill

A few minutes on two quiet cores. torchdistill is no dependency of the project; this adds it and Cython, and changes no
other version: `pip install -c constraints.txt torchdistill==1.1.5`.

The pairs are the digits' (batch 64) and Swin-T with ResNet18 at 224 x 224 (batch 8), untrained, in float32 on one CPU
thread. All train the same student on the same batch by the same optimiser, turn by turn. *stored* looks the teacher's
outputs up in a view store. Before anything is timed, each peer's loss and clipped gradient at the first step are held
to ours; where they differ there is no table. timm's `FeatureDistillationTask` is another loss, in RSD's place.
docs/performance.md says what a step contains, and which methods have no row.

Times are medians with quartiles, ratios the medians of the ratios within a turn: above 1 the peer takes longer. Memory
is the peak of a process of its own that makes two steps: its resident size, imports included, or with `--device cuda`
what PyTorch has allocated there.
"""

import importlib.util
from typing import Annotated, Literal

import torch
import typer

from benchmarks.command import CLOCKS, Clock, command
from benchmarks.interleaved import markdown
from benchmarks.peers.compare import Way, compared, peaks, rows, ways
from benchmarks.peers.trainers import CASES
from rsd.machine.errors import UserError

INSTALL = "pip install -c constraints.txt torchdistill==1.1.5"
TURNS = {"digits, 16 px": 4, "Swin-T, ResNet18, 224 px": 1}
"""Multiples of `--rounds`: short steps take more rounds."""


def main(
    rounds: Annotated[int, typer.Option(help="Of the large pair; the small one has four times as many.")] = 5,
    clock: Clock = "wall",
    peers: Literal["timm", "torchdistill", "both"] = "both",
    device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    if peers != "timm" and importlib.util.find_spec("torchdistill") is None:
        raise UserError(f"expected torchdistill, found none; `{INSTALL}`, or leave it out by --peers timm")
    torch.set_num_threads(1)
    place, all_ways = torch.device(device), ways(["timm", "torchdistill"] if peers == "both" else [peers])
    # First, while this process is small: the peak of a child includes what its parent held.
    cells: list[tuple[str, Way | None]] = [("", None), *((name, way) for name in CASES for way in all_ways)]
    idle, *peaks_of_cells = peaks(cells, place)
    table = []
    for position, name in enumerate(CASES):
        own = dict(zip(all_ways, peaks_of_cells[position * len(all_ways) :], strict=False))
        times, differs = compared(name, all_ways, place, rounds=TURNS[name] * rounds, clock=CLOCKS[clock])
        table += rows(name, times, differs, own)
    print(f"{clock} clock, {device}; a process that has imported all takes {idle:.0f} MB\n")
    print(markdown(table))


if __name__ == "__main__":
    command(main, __doc__)
