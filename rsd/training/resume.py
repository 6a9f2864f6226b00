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
class TrainingState:
    """What a training has done so far. Together with the stepper's state it is all that is needed to go on."""

    history: list[dict[str, float]] = field(default_factory=list)
    """A row per epoch."""
    best: dict[str, Any] = field(default_factory=dict)
    """The selected epoch: its row, and the weights of student and scaffold."""
    times: list[dict[str, float]] = field(default_factory=list)
    """A row per epoch, which no other number depends on."""
    done: int = 0
    """Steps of the present epoch."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Of each scalar over the steps that gave it."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many steps gave it."""
    seconds: float = 0.0
    """That these steps took."""

    warned: bool = False
    """Whether a collapsed student was named."""

    def add(self, terms: dict[str, Tensor], seconds: float) -> None:
        """Count a step."""
        self.sums |= {key: self.sums[key] + value if key in self.sums else value for key, value in terms.items()}
        self.counts |= {key: self.counts.get(key, 0) + 1 for key in terms}
        self.done += 1
        self.seconds += seconds

    def end_epoch(self, row: dict[str, float], times: dict[str, float]) -> None:
        self.history.append(row)
        self.times.append(times)
        self.done, self.sums, self.counts, self.seconds = 0, {}, {}, 0.0

    def check(self, *, steps: int, epochs: int) -> None:
        """Raise ValueError if no training of `epochs` epochs of `steps` steps leaves such a state."""
        rows = [*self.history, *self.times, *([self.best["row"]] if self.best else [])]
        if not all(type(value) in (int, float) for row in rows for value in row.values()):
            raise ValueError("rows that hold other things than numbers")
        if bool(self.best) != bool(self.history) or (
            self.best and not {"student", "scaffold"} <= {*self.best["weights"]}
        ):
            raise ValueError("no weights of the best epoch")
        if not len(self.history) == len(self.times) <= epochs or not 0 <= self.done < max(steps, 1):
            raise ValueError(f"{len(self.history)} epochs, {len(self.times)} times of them, and {self.done} steps")

    def logged(self) -> list[dict[str, float]]:
        """The history beside its times."""
        return [row | times for row, times in zip(self.history, self.times, strict=True)]


class Saver:
    """Writes and reads the checkpoint file. All processes call it, the leading one writes.

    Args:
        path: of the checkpoint; None keeps nothing.
        seconds: longest time between two checkpoints within an epoch.
    """

    def __init__(self, path: Path | None, stepper: Stepper, *, seconds: float) -> None:
        self.path, self.stepper, self.seconds = path, stepper, seconds
        self.last = time.monotonic()

    def load(self, *, steps: int, epochs: int, name: str) -> TrainingState:
        """Read the checkpoint and bring the stepper to that step; without one, the state of a training at its start.

        Args:
            steps: of an epoch.

        Raises:
            UserError: the checkpoint is damaged.
        """
        saved = checkpoint.load(self.path) if self.path else None
        if not self.path or saved is None:
            return TrainingState()
        with checkpoint.whole(self.path):
            state = TrainingState(**saved["progress"])
            state.check(steps=steps, epochs=epochs)
            state.sums = {key: value.to(self.stepper.device) for key, value in state.sums.items()}
            self.stepper.load(saved["stepper"], steps=len(state.history) * steps + state.done)
        if parallel.leads():
            inside = f" and {state.done} of {steps} steps" if state.done else ""
            print(f"{name}: resumed after epoch {len(state.history)} of {epochs}{inside}", file=sys.stderr)
        return state

    def is_due(self) -> bool:
        """Whether the last checkpoint is too old; the leading process's clock decides for all."""
        if not self.path:
            return False
        due = time.monotonic() - self.last > self.seconds
        if parallel.processes() == 1:
            return due
        return bool(parallel.all_of(torch.tensor(due, device=self.stepper.device))[0])

    def save(self, state: TrainingState) -> None:
        if not self.path:
            return
        content = {"progress": vars(state), "stepper": self.stepper.state()}
        if parallel.leads():
            checkpoint.save(self.path, content)
        self.last = time.monotonic()
