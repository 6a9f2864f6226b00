"""Contrastive representation distillation (ICLR 2020, arXiv 1910.10699)."""

import math

import torch
from pydantic import Field
from timm.utils.model import unwrap_model
from torch import Tensor, nn
from torch.nn import functional as F

from rsd.machine.errors import UserError
from rsd.machine.parallel import all_of
from rsd.methods._linear_embeddings import LinearEmbeddings
from rsd.methods.base import Distiller, MethodOptions, Setting, Step, WeightOptions
from rsd.models.outputs import Outputs, embedding_width


class CRDOptions(WeightOptions):
    """Options of `method.crd`."""

    width: int = Field(128, gt=0, le=65536)
    """Of the vectors that are contrasted."""
    negatives: int = Field(16384, gt=0, le=10000000)
    """Other images that each image is contrasted with, drawn anew at each step, with replacement (K in the paper)."""
    temperature: float = Field(0.07, gt=0)
    momentum: float = Field(0.5, ge=0, lt=1)
    """Share of a remembered vector that stays when its image is seen again."""


def crd_loss(
    positive: Tensor, negatives: Tensor, *, log_partition: Tensor | float, temperature: float = 0.07
) -> Tensor:
    """Contrastive representation distillation (ICLR 2020, arXiv 1910.10699, eq. 18), for one direction.

    `-mean_b (log h(positive) + sum_k log(1 - h(negative_k)))` with `h = p / (p + K / M)`, `p = exp(x / T) / Z`:
    how surely a pair of vectors comes from one image, against K pairs that do not, M images in all. `Z` is held
    constant (Wu et al. 2018, arXiv 1805.01978, eq. 8): M times the mean of `exp(x / T)` over the first batch.

    Args:
        positive: cosine similarity of each anchor to its own image's vector, `[B]`.
        negatives: to those of K other images, `[B, K]`.
        log_partition: `log(Z / M)`.
    """
    if positive.ndim != 1 or negatives.ndim != 2 or len(positive) != len(negatives):
        raise ValueError(f"expected [B] and [B, K], found {list(positive.shape)} and {list(negatives.shape)}")
    dtype = torch.promote_types(torch.promote_types(positive.dtype, negatives.dtype), torch.float32)
    chance = log_partition + math.log(negatives.shape[1])
    of_positive = F.logsigmoid(positive.to(dtype) / temperature - chance)  # log h
    of_negatives = F.logsigmoid(chance - negatives.to(dtype) / temperature)  # log (1 - h)
    return -(of_positive + of_negatives.sum(dim=1)).mean()


class MemoryBank(nn.Module):
    """The last vector of every training image, unit length, `[M, D]`; a buffer, so a resumed run remembers."""

    vectors: Tensor
    log_partition: Tensor

    def __init__(self, images: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(images, width)))
        self.register_buffer("log_partition", torch.tensor(math.nan))  # until the first batch

    def contrast(self, anchor: Tensor, index: Tensor, others: Tensor, *, temperature: float) -> Tensor:
        """CRD of anchors `[B, D]` against the images at `index` `[B]` and `others` `[B, K]`."""
        # Copied, since `remember` writes before the backward pass. All M products: K vectors for each of B
        # anchors would take more memory than B x M numbers.
        scores = anchor @ self.vectors.clone().T
        positive, negatives = scores.gather(1, index[:, None]), scores.gather(1, others)
        everything = torch.cat([positive, negatives], dim=1).detach().float() / temperature
        own = everything.flatten().logsumexp(0) - math.log(everything.numel())
        shares = torch.stack(all_of(own))
        mean = shares.logsumexp(0) - math.log(len(shares))
        partition = torch.where(self.log_partition.isnan(), mean, self.log_partition)
        if self.training:
            self.log_partition.copy_(partition)
        return crd_loss(positive[:, 0], negatives, log_partition=partition, temperature=temperature)

    @torch.no_grad()
    def remember(self, vectors: Tensor, index: Tensor, *, momentum: float) -> None:
        if self.training:
            # Of all processes, so that each remembers the same.
            vectors, index = torch.cat(all_of(vectors)), torch.cat(all_of(index))
            mixed = momentum * self.vectors[index] + (1 - momentum) * vectors.to(self.vectors.dtype)
            # An image that comes twice is remembered as it came last: to write two values is to write either.
            same = index[:, None] == index
            last = (same * torch.arange(1, len(index) + 1, device=index.device)).argmax(dim=1)
            self.vectors[index] = F.normalize(mixed)[last]


class ContrastiveEmbeddings(LinearEmbeddings):
    """Linear maps of both embeddings to unit vectors, and the memory banks they are contrasted with."""

    def __init__(self, student_width: int, teacher_width: int, width: int, images: int) -> None:
        super().__init__(student_width, teacher_width, width)
        self.student_bank = MemoryBank(images, width)
        self.teacher_bank = MemoryBank(images, width)

    def forward(self, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        mapped_student, mapped_teacher = super().forward(student, teacher)
        return F.normalize(mapped_student), F.normalize(mapped_teacher)


class CRDDistiller(Distiller, method="crd"):
    """Cross-entropy + `weight` x CRD, the student against the teacher's memory and the teacher against the student's.

    It must know which image is which: `Setting.image_count`, and `index` at each step.
    """

    needs = frozenset({"embedding"})
    Options = CRDOptions
    options: CRDOptions

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        # Through the memory: the second part of a batch would meet the new vectors of the first.
        return True

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module:
        if setting.image_count is None:
            raise ValueError("CRDDistiller remembers every training image; give image_count")
        if setting.image_count < 2:
            raise UserError(f"expected at least 2 training images for method 'crd', found {setting.image_count}")
        assert setting.teacher_width is not None  # the constructor has checked what `needs` asks for
        return ContrastiveEmbeddings(
            embedding_width(student), setting.teacher_width, self.options.width, setting.image_count
        )

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        if step.index is None:
            raise ValueError("CRDDistiller must know which images these are; give index")
        scaffold = unwrap_model(self.trainable_module).projection
        student, teacher = step.adapted
        images = len(scaffold.student_bank.vectors)
        others = torch.randint(images - 1, (len(student), self.options.negatives), device=student.device)
        others = others + (others >= step.index[:, None])  # any image but its own
        of_student = scaffold.teacher_bank.contrast(student, step.index, others, temperature=self.options.temperature)
        of_teacher = scaffold.student_bank.contrast(teacher, step.index, others, temperature=self.options.temperature)
        scaffold.student_bank.remember(student, step.index, momentum=self.options.momentum)
        scaffold.teacher_bank.remember(teacher, step.index, momentum=self.options.momentum)
        return self.options.weight * (of_student + of_teacher), {"crd_student": of_student, "crd_teacher": of_teacher}
