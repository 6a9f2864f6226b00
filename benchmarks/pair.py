"""What the timings of training steps share: an untrained pair, one batch of random pixels, and steps on it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rsd.machine.compute import ComputeOptions
from rsd.machine.files import write_json
from rsd.methods.base import Distiller, Setting
from rsd.methods.rsd import RSDDistiller
from rsd.methods.scratch import ScratchDistiller
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import embedding_width
from rsd.models.pixels import PixelNormalize
from rsd.teacher.store import LiveTeacher, StoredTeacher, StoreHeader
from rsd.training.loop import Teacher
from rsd.training.recipe import Recipe
from rsd.training.stepper import Stepper


class Case(NamedTuple):
    """A pair, and the batch that it is given."""

    teacher: ModelOptions
    student: ModelOptions
    optimizer: str = "adamw"
    shape: tuple[int, int, int] = (224, 224, 3)
    """Height, width and channels of an image."""
    batch: int = 128
    classes: int = 100
    images: int = 900
    """In the view store."""


@dataclass(frozen=True)
class Bench:
    """The models of a case, and the one batch that every way to train is given."""

    case: Case
    device: torch.device
    teacher: nn.Module
    student: nn.Module
    normalize: PixelNormalize
    raw: Tensor
    """uint8 `[B, H, W, C]`."""
    target: Tensor
    index: np.ndarray
    view: np.ndarray
    stored: StoredTeacher

    def copy(self) -> "Bench":
        """With models of its own, for a trainer beside others: training changes one, and torchdistill hooks both."""
        return replace(self, teacher=copy.deepcopy(self.teacher), student=copy.deepcopy(self.student))

    def live(self) -> LiveTeacher:
        return LiveTeacher(self.teacher, self.normalize)

    def scratch(self) -> ScratchDistiller:
        """Trains a copy of the student."""
        return ScratchDistiller(copy.deepcopy(self.student))

    def rsd(self) -> RSDDistiller:
        """Trains a copy of the student."""
        return RSDDistiller(copy.deepcopy(self.student), Setting(teacher_width=embedding_width(self.teacher)))

    def step(
        self, task: Distiller, teacher: Teacher | None, compute: ComputeOptions | None = None
    ) -> Callable[[], dict[str, Tensor]]:
        """A step of `stepper` on the batch; each call takes the next."""
        stepper, numbers = self.stepper(task, teacher, compute), count()
        return lambda: stepper.step(self.raw, self.target, self.index, self.view, number=next(numbers))

    def stepper(self, task: Distiller, teacher: Teacher | None, compute: ComputeOptions | None = None) -> Stepper:
        """Trains the task by a recipe for timing."""
        recipe = Recipe(
            epochs=1, batch_size=self.case.batch, optimizer=self.case.optimizer, learning_rate=1e-4, weight_decay=0.05,
            clip_gradient=5.0,
        )  # fmt: skip
        return Stepper(
            task.to(self.device).train(), recipe, compute or ComputeOptions(), normalize=self.normalize,
            teacher=teacher, steps_per_epoch=1000,
        )  # fmt: skip


def bench(case: Case, folder: Path, device: torch.device, *, seed: int = 0) -> Bench:
    """The same models and batch at each call; the view store goes to `folder`."""
    torch.manual_seed(seed)
    teacher = create(case.teacher, classes=case.classes, image_shape=case.shape).eval().to(device)
    student = create(case.student, classes=case.classes, image_shape=case.shape).to(device)
    return Bench(
        case,
        device,
        teacher,
        student,
        PixelNormalize([0.5] * case.shape[2], [0.25] * case.shape[2]).to(device),
        torch.randint(0, 256, (case.batch, *case.shape), dtype=torch.uint8).to(device),
        torch.randint(0, case.classes, (case.batch,)).to(device),
        np.random.default_rng(seed).permutation(case.images)[: case.batch],
        np.zeros(case.batch, np.int64),
        random_store(folder, case.images, embedding_width(teacher), case.classes, device),
    )


def random_store(folder: Path, images: int, width: int, classes: int, device: torch.device) -> StoredTeacher:
    """A store of one view of each image, whose numbers do not matter for its speed."""
    generator = np.random.default_rng(0)
    for name, columns in (("embedding", width), ("logits", classes)):
        np.save(folder / f"{name}.npy", generator.standard_normal((1, images, columns)).astype(np.float16))
    header = StoreHeader(views=1, seed=0, images=images, made_from={}, embedding_width=width, logits_width=classes)
    write_json(folder / "header.json", header.model_dump(exclude_none=True))
    return StoredTeacher(folder, made_from={}, device=device)
