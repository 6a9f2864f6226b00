"""The GPU's benchmark, on the CPU with a pair of toys: it measures what it says it does."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_speed
from benchmarks.gpu_speed import largest_batch, loop_rows, step_row, view_rates, ways
from benchmarks.pair import Case
from rsd.machine.compute import ComputeOptions
from rsd.models.make import ModelOptions

TOY = Case(
    ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}),
    ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 8]}),
    "sgd",
    shape=(32, 32, 3),
    batch=8,
)
CPU = torch.device("cpu")


def test_only_ways_with_a_teacher_know_its_loss(tmp_path: Path) -> None:
    terms = {name: step() for name, step in ways(TOY, ComputeOptions(device="cpu"), CPU, tmp_path).items()}

    assert {name for name, output in terms.items() if "invariance" in output} == {"stored", "live"}


def test_a_row_has_every_ways_rate_and_ratio() -> None:
    row = step_row(TOY, "float32", CPU, rounds=2, steps=1)

    assert list(row) == [
        "compute",
        "scratch, images/s",
        "stored, images/s",
        "live, images/s",
        "stored / scratch",
        "live / (scratch + teacher)",
    ]
    assert float(row["live / (scratch + teacher)"].split()[0]) > 0


def test_every_source_and_number_of_workers_is_measured() -> None:
    rows = list(loop_rows(TOY, "float32", CPU, workers=[0, 1], images=16))

    assert [(row["images"], row["workers"]) for row in rows] == [
        (what, count) for what in ("32 x 32, in memory", "JPEG, 500 x 375") for count in ("0", "1")
    ]
    assert all(float(row["images/s"]) > 0 for row in rows)


def test_views_are_timed_from_both_sides() -> None:
    row = view_rates(CPU, images=64, batch=16, epochs=2)

    assert [float(value) > 0 for key, value in row.items() if key.endswith("images/s")] == [True, True]


def test_the_largest_batch_is_the_last_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def sized(case: Case, *_: object) -> dict[str, object]:
        return {way: partial(limited, case.batch, most) for way, most in (("scratch", 64), ("stored", 32))}

    def limited(batch: int, most: int) -> None:
        if batch > most:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_speed, "ways", sized)
    assert largest_batch(TOY, "float32", CPU) == {"compute": "float32", "scratch": "64", "stored": "32"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_gets_a_sentence() -> None:
    run = subprocess.run([sys.executable, "-m", "benchmarks.gpu_speed"], capture_output=True, text=True)

    assert run.returncode
    assert "expected a CUDA device, found none" in run.stderr
