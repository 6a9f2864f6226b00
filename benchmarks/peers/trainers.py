"""One method trained by us and by timm, as `benchmarks.peers` compares them: same pair, same batch, same optimiser."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from timm.optim import create_optimizer_v2
from timm.task import FeatureDistillationTask, LogitDistillationTask
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks import pair, view_store
from benchmarks.pair import Bench, Case
from rsd.machine.compute import ComputeOptions
from rsd.methods.base import Distiller, MethodOptions, Setting
from rsd.methods.crd import CRDDistiller, CRDOptions
from rsd.methods.dist import DISTDistiller, DISTOptions
from rsd.methods.kd import KDDistiller, KDOptions
from rsd.methods.rkd import RKDDistiller, RKDOptions
from rsd.methods.rsd import RSDDistiller, RSDOptions
from rsd.models.outputs import embedding_width
from rsd.training.loop import Teacher
from rsd.training.recipe import Recipe
from rsd.training.stepper import Stepper

CASES = {
    "digits, 16 px": view_store.CASES["digits, 16 px"],
    # Half the batch of `benchmarks.view_store`: there are many more trainers to a turn.
    "Swin-T, ResNet18, 224 px": view_store.CASES["Swin-T, ResNet18, 224 px"]._replace(batch=8),
}
LEARNING_RATE, MOMENTUM, CLIP = 1e-3, 0.9, 5.0
REMEMBERED = 50_000
"""Images that CRD remembers: as many as CIFAR-100 has for training."""
SEED = 1
METHODS: dict[str, tuple[type[Distiller], MethodOptions]] = {
    "kd": (KDDistiller, KDOptions(temperature=4.0)),
    "dist": (DISTDistiller, DISTOptions()),
    "rkd": (RKDDistiller, RKDOptions()),
    "crd": (CRDDistiller, CRDOptions()),
    "rsd": (RSDDistiller, RSDOptions()),
}


class Trainer(NamedTuple):
    """One way to train."""

    student: nn.Module
    optimizer: Optimizer
    step: Callable[[], Tensor]
    """Forward, backward, clip, update; gives the loss before the update."""


def bench(case: Case, folder: Path, device: torch.device) -> Bench:
    """The models and the batch of a case, the same at each call; the view store goes to `folder`."""
    result = pair.bench(case, folder, device, seed=SEED)
    # timm's tasks would undo the student's normalisation for the teacher, by what the names of the two suggest.
    result.student.pretrained_cfg = result.student.pretrained_cfg | {  # type: ignore[operator]
        key: result.teacher.pretrained_cfg[key]  # type: ignore[index]
        for key in ("mean", "std")
    }
    return result


def ours(bench: Bench, method: str, *, stored: bool) -> Trainer:
    """A step of `rsd.training.stepper`, with the teacher's outputs looked up or the teacher run."""
    distiller, options = METHODS[method]
    torch.manual_seed(SEED)  # of the scaffold
    setting = Setting(teacher_width=embedding_width(bench.teacher), image_count=REMEMBERED)
    task = distiller(bench.student, setting, options).to(bench.device)
    recipe = Recipe(
        epochs=1, batch_size=len(bench.raw), optimizer="sgd", momentum=MOMENTUM, learning_rate=LEARNING_RATE,
        clip_gradient=CLIP,
    )  # fmt: skip
    teacher: Teacher = bench.stored if stored else bench.live()
    stepper = Stepper(
        task.train(), recipe, ComputeOptions(), normalize=bench.normalize, teacher=teacher,
        steps_per_epoch=10**9,  # the learning rate stays where it is, as the peers' does
    )  # fmt: skip
    # The step does not hold on to `bench`: with stored outputs nobody keeps the teacher.
    batch = (bench.raw, bench.target, bench.index, bench.view)
    return Trainer(bench.student, stepper.optimizer, lambda: stepper.step(*batch, number=0)["loss"])


def timm_task(bench: Bench, method: str) -> Trainer:
    """A step as timm's training script makes it: `LogitDistillationTask` for KD, else `FeatureDistillationTask`."""
    criterion = nn.CrossEntropyLoss()
    task = (
        LogitDistillationTask(bench.student, bench.teacher, criterion, temperature=4.0, verbose=False)
        if method == "kd"
        else FeatureDistillationTask(bench.student, bench.teacher, criterion, verbose=False)
    )
    task.to(bench.device).train()
    optimizer = create_optimizer_v2(
        task.trainable_module, opt="sgd", lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=0.0
    )

    def step() -> Tensor:
        loss = task(bench.normalize(bench.raw), bench.target)["loss"]
        loss.backward()
        dispatch_clip_grad(task.get_clip_parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()  # here, so that the next forward pass does not hold the old gradients
        return loss.detach()

    return Trainer(bench.student, optimizer, step)


def first_step(trainer: Trainer) -> tuple[float, Tensor]:
    """Make one step; its loss, and the clipped gradient of all of the student's weights, as one vector."""
    gradients: list[Tensor] = []

    def keep(*_: object) -> None:
        weights = trainer.student.parameters()
        gradients.append(torch.cat([p.grad.flatten().double().cpu() for p in weights if p.grad is not None]))

    hook = trainer.optimizer.register_step_pre_hook(keep)
    torch.manual_seed(SEED)  # CRD's negatives
    loss = float(trainer.step())
    hook.remove()
    return loss, gradients[0]
