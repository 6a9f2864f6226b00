"""OFA-KD: one for all, logits at every stage (NeurIPS 2023, arXiv 2310.19444)."""

import math
from typing import Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.machine.parallel import gather
from rsd.methods._batches import pair
from rsd.methods.base import Distiller, MethodOptions, Setting, Step
from rsd.methods.rsd import rsd_loss
from rsd.models.features import Stage, StagedOutputs, StageShape, stage_shapes
from rsd.models.outputs import Outputs, embedding_width

GRID = 7  # a token branch merges patches until its grid has this side


class OFAOptions(MethodOptions):
    """Options of `method.ofa`."""

    branch_weight: float = Field(0.1, ge=0)
    """Of each of the four branches."""
    logits_weight: float = Field(1.0, ge=0)
    """Of the student's own logits."""
    eps: float = Field(1.0, gt=0)
    """Power that raises the target class's share; the author takes 1.5 on ImageNet."""
    temperature: float = Field(1.0, gt=0)
    loss: Literal["ofa", "rsd"] = "ofa"
    """`rsd` replaces all five losses by RSD between the logits; `eps` and `temperature` are then unused."""
    rsd_weight: float = Field(0.1, ge=0)
    """For `loss: rsd`: of each RSD loss, beside the weights above."""
    kappa: float = Field(0.01, ge=0)
    """For `loss: rsd`: of the redundancy term."""


def ofa_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, eps: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """OFA-KD (NeurIPS 2023, arXiv 2310.19444, eq. 5): `-sum_c ((p_t + 1_y)^eps - 1_y) log p_s`, mean over the batch.

    `eps` raises the target class's share; at 1 this is KD at T 1 plus the teacher's entropy.

    Args:
        student_logits, teacher_logits: `[B, classes]`; `p = softmax(logits / temperature)`.
        target: class indices `[B]`.
    """
    student, teacher = pair(student_logits, teacher_logits)
    p_t = F.softmax(teacher / temperature, dim=1)
    is_target = F.one_hot(target, p_t.shape[1]).to(p_t.dtype)
    weight = (p_t + is_target) ** eps - is_target
    return -(weight * F.log_softmax(student / temperature, dim=1)).sum(dim=1).mean()


def _separable(channels: int, stride: int, out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    ]


class MapBranch(nn.Module):
    """From the `[B, C, H, W]` of stage 1 to 4 of a CNN to logits.

    `4 - stage` blocks, each of two separable convolutions, halve the map and double the channels, the last
    to `width`; stage 4 has a 1x1 convolution instead.
    """

    def __init__(self, shape: StageShape, stage: int, *, width: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if stage < 4 else [nn.Conv2d(shape.channels, width, 1)]
        channels = shape.channels
        for left in range(4 - stage, 0, -1):
            out = width if left == 1 else 2 * channels
            layers += [*_separable(channels, 2, channels), *_separable(channels, 1, out)]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, stage: Stage) -> Tensor:
        return self.head(self.layers(stage.map).mean(dim=(2, 3)))


class PatchMerger(nn.Module):
    """Four neighbours into one: `[B, H, W, C]` to `[B, H/2, W/2, width]`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, width, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        batch, height, width, channels = patches.shape
        joined = patches.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(2, 3).flatten(3)
        return self.reduce(self.norm(joined))


class TokenBranch(nn.Module):
    """From stage 1 to 4 of a transformer or an MLP to logits.

    Patch mergers to a grid of 7, the first straight to the student's width, GELU between them; then
    `max(4 - stage, 1)` transformer blocks; then the class token, or the mean where there is none.
    """

    def __init__(self, shape: StageShape, stage: int, *, width: int, classes: int) -> None:
        super().__init__()
        mergers: list[nn.Module] = []
        channels, height, side = shape.channels, shape.height, shape.width
        while min(height, side) >= 2 * GRID and height % 2 == 0 and side % 2 == 0:
            mergers += [nn.GELU()] * bool(mergers) + [PatchMerger(channels, width)]
            channels, height, side = width, height // 2, side // 2
        same = shape.channels == width or (mergers and not shape.prefix_tokens)
        self.mergers = nn.Sequential(*mergers)
        self.widen = nn.Identity() if same else nn.Linear(shape.channels, width, bias=False)  # of what is not merged
        heads = math.gcd(4, width)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=False) for _ in range(max(4 - stage, 1))))
        self.head = nn.Linear(width, classes)

    def forward(self, stage: Stage) -> Tensor:
        patches = stage.map.permute(0, 2, 3, 1)
        patches = (self.mergers(patches) if len(self.mergers) else self.widen(patches)).flatten(1, 2)
        if stage.prefix is None:
            return self.head(self.blocks(patches).mean(dim=1))
        return self.head(self.blocks(torch.cat([self.widen(stage.prefix), patches], dim=1))[:, 0])


class Branches(nn.ModuleList):
    def forward(self, student: StagedOutputs, teacher: Outputs) -> list[Tensor]:
        return [branch(stage) for branch, stage in zip(self, student.stages, strict=True)]


class OFADistiller(Distiller, method="ofa"):
    """Cross-entropy + the adaptive-target loss of four stage branches and of the student's own logits."""

    needs = frozenset({"logits"})
    staged = True
    Options = OFAOptions
    options: OFAOptions

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        return isinstance(options, OFAOptions) and options.loss == "rsd"

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module:
        if setting.image_shape is None:
            raise ValueError("OFADistiller takes the student apart; give image_shape")
        assert setting.teacher_width is not None  # the constructor has checked what `needs` asks for
        shapes = stage_shapes(student, setting.image_shape)
        own = embedding_width(student)
        tokens = shapes[-1].tokens
        kind = TokenBranch if tokens else MapBranch
        width = own if tokens else max(own, setting.teacher_width)
        classes = int(student.num_classes)  # type: ignore[arg-type]
        return Branches(kind(shape, stage, width=width, classes=classes) for stage, shape in enumerate(shapes, start=1))

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        losses = {f"ofa_{stage}": self.compare(logits, step) for stage, logits in enumerate(step.adapted, start=1)}
        of_logits = self.compare(step.student.logits, step)
        branches = torch.stack(list(losses.values())).sum()
        total = self.options.branch_weight * branches + self.options.logits_weight * of_logits
        return total, losses | {"ofa_logits": of_logits}

    def compare(self, logits: Tensor, step: Step) -> Tensor:
        """OFA's loss, or what replaces it, between logits of the student and the teacher's."""
        if self.options.loss == "rsd":
            teacher = gather(step.teacher.logits)
            return self.options.rsd_weight * rsd_loss(gather(logits), teacher, kappa=self.options.kappa)
        return ofa_loss(
            logits, step.teacher.logits, step.labels, eps=self.options.eps, temperature=self.options.temperature
        )
