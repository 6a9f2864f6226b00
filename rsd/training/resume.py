"""What a training that was killed goes on from."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsd.machine import parallel
from rsd.training import checkpoint
from rsd.training.stepper import Stepper


@dataclass
class Progress:
    """What a training has behind it; with the stepper's state, all that is needed to go on."""

    history: list[dict[str, float]] = field(default_factory=list)
    """A row per epoch."""
    best: dict[str, Any] = field(default_factory=dict)
    """The selected epoch: its row, and the weights of student and scaffold."""
    times: list[dict[str, float]] = field(default_factory=list)
    """A row per epoch, which no other number depends on."""
    done: int = 0
    """Steps of the epoch that is not in the history yet, and their sums:"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, terms: dict[str, Tensor], seconds: float) -> None:
        """Count a step."""
        self.sums = {key: self.sums[key] + value if key in self.sums else value for key, value in terms.items()}
        self.done += 1
        self.seconds += seconds

    def end_epoch(self, row: dict[str, float], times: dict[str, float]) -> None:
        self.history.append(row)
        self.times.append(times)
        self.done, self.sums, self.seconds = 0, {}, 0.0

    def logged(self) -> list[dict[str, float]]:
        """The history beside its times."""
        return [row | times for row, times in zip(self.history, self.times, strict=True)]


class Saver:
    """Keeps progress and stepper in a checkpoint file. All processes call it, the leading one writes.

    Args:
        path: of the checkpoint; None keeps nothing.
        seconds: longest time between two checkpoints within an epoch.
    """

    def __init__(self, path: Path | None, stepper: Stepper, *, seconds: float) -> None:
        self.path, self.stepper, self.seconds = path, stepper, seconds
        self.last = time.monotonic()

    def load(self, *, steps: int, epochs: int, name: str) -> Progress:
        """Bring the stepper to where the checkpoint left off; without one, a training that is about to start.

        Args:
            steps: of an epoch.
            epochs: of the whole training, for the message.
            name: of the run, for the message.
        """
        saved = checkpoint.load(self.path) if self.path else None
        if not saved:
            return Progress()
        progress = Progress(**saved["progress"])
        progress.sums = {key: value.to(self.stepper.device) for key, value in progress.sums.items()}
        self.stepper.load(saved["stepper"], steps=len(progress.history) * steps + progress.done)
        if parallel.leads():
            inside = f" and {progress.done} of {steps} steps" if progress.done else ""
            print(f"{name}: resumed after epoch {len(progress.history)} of {epochs}{inside}", file=sys.stderr)
        return progress

    def is_due(self) -> bool:
        """Whether the last checkpoint is too old; the leading process's clock decides for all."""
        if not self.path:
            return False
        due = time.monotonic() - self.last > self.seconds
        if parallel.processes() == 1:
            return due
        return bool(parallel.all_of(torch.tensor(due, device=self.stepper.device))[0])

    def save(self, progress: Progress) -> None:
        if not self.path:
            return
        content = {"progress": vars(progress), "stepper": self.stepper.state()}
        if parallel.leads():
            checkpoint.save(self.path, content)
        self.last = time.monotonic()
