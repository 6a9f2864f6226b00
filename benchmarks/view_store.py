"""What the view store saves in a step of RSD: its time with the stored teacher beside the live one.

    python -m benchmarks.view_store
    python -m benchmarks.view_store --clock cpu --rounds 7   # on a machine that does other work meanwhile

About two minutes on one quiet core. Untrained models, float32, one CPU thread. A step is that of `Stepper`, with
the batch's views already made: normalise, ask the teacher, forward, backward, clip, update. *Stored* looks up what
`embed` would have written, *live* runs the teacher on the same pixels; both train a copy of the same student, turn
by turn. Small: the default pair on digits (ResNet of 166 k parameters, ViT of 27 k, 16 x 16, batch 64). 224: Swin-T and
ResNet18 at 224 x 224, batch 16. Times are medians with quartiles, the ratio is the median of the ratios within a turn.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.command import CLOCKS, Clock, command
from benchmarks.interleaved import interleaved, markdown, spread
from benchmarks.pair import Case, bench
from rsd.machine.yaml_file import read_yaml
from rsd.models.make import ModelOptions

DIGITS = read_yaml(Path(__file__).parents[1] / "conf" / "pair" / "digits" / "resnet-vit.yaml")
CASES = {
    "digits, 16 px": Case(
        ModelOptions(name=DIGITS["teacher"]["name"], args=DIGITS["teacher"]["args"]),
        ModelOptions(name=DIGITS["student"]["name"], args=DIGITS["student"]["args"]),
        shape=(16, 16, 1), batch=64, classes=10,
    ),
    "Swin-T, ResNet18, 224 px": Case(
        ModelOptions(name="swin_tiny_patch4_window7_224"), ModelOptions(name="resnet18"), batch=16
    ),
}  # fmt: skip


def steps(case: Case, folder: Path) -> dict[str, Callable[[], object]]:
    """A step of RSD with the stored and with the live teacher, by name."""
    pair = bench(case, folder, torch.device("cpu"))
    return {"stored": pair.step(pair.rsd(), pair.stored), "live": pair.step(pair.rsd(), pair.live())}


def main(rounds: int = 15, clock: Clock = "wall") -> None:
    torch.set_num_threads(1)
    rows = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            times = interleaved(steps(case, Path(folder)), rounds=rounds, warmup=1, clock=CLOCKS[clock])
        seconds = {f"{way}, s": spread(times[way]) for way in times}
        ratio = {"live / stored": spread(times["live"] / times["stored"])}
        rows.append({"pair": name, "batch": str(case.batch), **seconds, **ratio})
    print(f"{clock} clock, {rounds} rounds\n\n{markdown(rows)}")


if __name__ == "__main__":
    command(main, __doc__)
