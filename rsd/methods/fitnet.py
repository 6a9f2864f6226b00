"""FitNet: hints from the teacher's feature maps (ICLR 2015, arXiv 1412.6550), at four stages."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.methods.base import Distiller, Setting, Step, WeightOptions
from rsd.models.features import StagedOutputs, StageShape, stage_shapes


class FitNetOptions(WeightOptions):
    """Options of `method.fitnet`."""

    weight: float = Field(0.1, ge=0)
    """Of the sum over the four stages beside the cross-entropy."""


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNet (ICLR 2015, arXiv 1412.6550, eq. 3): the mean squared difference of two features of one shape."""
    if student.shape != teacher.shape:
        raise ValueError(f"expected features of one shape, found {list(student.shape)} and {list(teacher.shape)}")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return F.mse_loss(student.to(dtype), teacher.to(dtype))


def resize_matrix(size: int, new_size: int) -> Tensor:
    """`[new_size, size]`: means over equal parts where the new size is smaller, linear between where it is larger."""
    identity = torch.eye(size)[None]
    resized = (
        F.adaptive_avg_pool1d(identity, new_size)
        if new_size < size
        else F.interpolate(identity, new_size, mode="linear")
    )
    return resized[0].T


class Aligner(nn.Module):
    """A student's stage to the shape of the teacher's: a 1x1 convolution and a resize of the grid.

    Resizing is two matrix products, since the backward pass of pooling and interpolation gives other bits at
    each run on a GPU. Class tokens have no place on a grid and are left out.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, student: StageShape, teacher: StageShape) -> None:
        super().__init__()
        self.widen = nn.Conv2d(student.channels, teacher.channels, 1)
        self.register_buffer("rows", resize_matrix(student.height, teacher.height), persistent=False)
        self.register_buffer("columns", resize_matrix(student.width, teacher.width), persistent=False)

    def forward(self, student: Tensor) -> Tensor:
        return self.rows @ self.widen(student) @ self.columns.T


class Aligners(nn.ModuleList):
    def forward(self, student: StagedOutputs, teacher: StagedOutputs) -> list[Tensor]:
        return [aligner(stage.map) for aligner, stage in zip(self, student.stages, strict=True)]


class FitNetDistiller(Distiller, method="fitnet"):
    """Cross-entropy + `weight` x the squared difference of the aligned stages, their sum."""

    needs = frozenset({"stages"})
    staged = True
    Options = FitNetOptions
    options: FitNetOptions

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module:
        if setting.teacher_stages is None or setting.image_shape is None:
            raise ValueError("FitNetDistiller aligns feature maps; give teacher_stages and image_shape")
        shapes = stage_shapes(student, setting.image_shape)
        return Aligners([Aligner(s, t) for s, t in zip(shapes, setting.teacher_stages, strict=True)])

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        if not isinstance(step.teacher, StagedOutputs):
            raise ValueError("FitNetDistiller got no stages of the teacher; give rsd.models.features.staged_outputs")
        losses = {
            f"fitnet_{number}": feature_loss(aligned, stage.map)
            for number, (aligned, stage) in enumerate(zip(step.adapted, step.teacher.stages, strict=True), start=1)
        }
        return self.options.weight * torch.stack(list(losses.values())).sum(), losses
