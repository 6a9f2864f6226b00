"""Peak memory of a run on the whole of Fashion-MNIST, stage by stage.

    python -m benchmarks.fashion_memory
    python -m benchmarks.fashion_memory --epochs 3 --views 4

Eleven minutes on two busy cores, with Debian's package dataset-fashion-mnist. In a temporary copy of the project every
stage from `prepare` to `evaluate` runs as `dvc repro` would start it, for a small pair of the digits' kind. The figure
is the peak resident size of the stage's process: PyTorch, timm and what it has read of memory-mapped files are in it.
It is never less than what this process held when it started the stage (about 100 MB).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command import command
from benchmarks.interleaved import markdown
from rsd.machine.yaml_file import read_yaml

ROOT = Path(__file__).parents[1]
STAGES = (
    ["params"], ["sources"], ["prepare"], ["teacher"], ["embed"], ["distill", "scratch", "0"],
    ["distill", "rsd", "0"], ["evaluate"],
)  # fmt: skip


def settings(epochs: int, views: int) -> dict[str, Any]:
    """What differs from the project's params.yaml."""
    fewer = {"epochs": epochs, "warmup_epochs": 0}
    override: dict[str, Any] = {"teacher": {"min_top1": 0}, "teacher_recipe": fewer, "recipe": fewer}
    override["student"] = {"args": {"img_size": 28}}
    stored = {"count": views, "seed": 0, "batch_size": 256}
    return {"data": "fashion_mnist", "seeds": [0], "views": stored, "override": override}


def peak_of(command: list[str], folder: Path) -> tuple[float, float]:
    """MB that a command took at most, and seconds.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    start = time.perf_counter()
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss * 1024 / 1e6, time.perf_counter() - start


def copy_of_the_project(folder: Path, changes: dict[str, Any]) -> None:
    """The files that the stages need, with changed params."""
    for name in ("conf", "methods", "rsd", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = read_yaml(ROOT / "params.yaml") | changes
    (folder / "params.yaml").write_text(json.dumps(params))


def main(epochs: int = 1, views: int = 1) -> None:
    idle, _ = peak_of([sys.executable, "-c", "import rsd.training.loop"], ROOT)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy_of_the_project(Path(folder), settings(epochs, views))
        for stage, *more in STAGES:
            peak, seconds = peak_of([sys.executable, "-m", f"stages.{stage}", *more], Path(folder))
            rows.append({"stage": " ".join([stage, *more]), "peak, MB": f"{peak:.0f}", "s": f"{seconds:.0f}"})
    print(f"{epochs} epochs, {views} views; importing rsd.training.loop alone: {idle:.0f} MB\n")
    print(markdown(rows))


if __name__ == "__main__":
    command(main, __doc__)
