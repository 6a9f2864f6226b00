"""Students and batches small enough for a millisecond a step."""

from typing import Any

import timm
import torch

from rsd.methods.base import Setting
from rsd.models.features import stage_shapes, staged_outputs

BATCH, CLASSES, IMAGES, SHAPE = 12, 5, 40, (32, 32, 1)


def vit(**args):
    torch.manual_seed(1)
    return timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "in_chans": 1,
           "num_classes": CLASSES} | args,
    )  # fmt: skip


def cnn(**args):
    torch.manual_seed(2)
    layers: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 20]}
    return timm.create_model("resnet18", **layers, in_chans=1, num_classes=CLASSES, **args)


def images():
    return torch.randn(BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def target():
    return torch.arange(BATCH) % CLASSES


def teacher_outputs():
    """A CNN's outputs, with its stages, as a live teacher gives them."""
    with torch.no_grad():
        return staged_outputs(cnn().eval(), images())


def task_of(task_class, student=None, **options):
    """The task of a method, with all that a method can ask for; the teacher is `cnn()`."""
    return task_class(
        vit() if student is None else student,
        Setting(teacher_width=20, teacher_stages=stage_shapes(cnn(), SHAPE), image_shape=SHAPE, image_count=IMAGES),
        task_class.Options(**options),
    )


def take_step(task, **changes):
    """The result of one step."""
    arguments = {"input": images(), "target": target(), "teacher": teacher_outputs(), "index": torch.arange(BATCH) * 3}
    return task(**arguments | changes)
