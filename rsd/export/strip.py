"""The student as it was when training ended, in the module that trained it beside an AAD or its like."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from rsd.export.divergence import first_divergence, in_words
from rsd.export.ladder import SAMPLE, Ladder
from rsd.export.parity import Gate
from rsd.export.pytorch_values import module_values
from rsd.methods import distiller
from rsd.methods.base import Setting
from rsd.models.features import StagedOutputs, stage_shapes, staged_outputs
from rsd.models.folder import load_trained
from rsd.models.outputs import Outputs, embedding_width, outputs
from rsd.models.pixels import PixelNormalize
from rsd.run.names import SCAFFOLD
from rsd.run.records import Parity, StudentRecord
from rsd.sources.images import sample_indices


class AsTrained:
    """Student, scaffold and teacher, put together again from what `distill` and `teacher` wrote, in eval mode.

    Args:
        record: of the student, beside its weights and `scaffold.safetensors`.
        teacher: folder of the teacher.
        image_count: how many training images there were.

    Raises:
        UserError: a file is missing or does not fit.
    """

    def __init__(self, record: StudentRecord, teacher: Path, *, image_count: int) -> None:
        self.student, self.normalize, config = load_trained(record.folder)
        kind = distiller(record.method)
        self.staged = kind.staged
        self.teacher: nn.Module | None = None
        setting = Setting(image_shape=config.image_shape, image_count=image_count)
        if kind.needs:
            self.teacher, self.normalize_teacher, of_teacher = load_trained(teacher)
            setting = setting._replace(teacher_width=embedding_width(self.teacher))
            if kind.staged:
                setting = setting._replace(teacher_stages=stage_shapes(self.teacher, of_teacher.image_shape))
        self.task = kind(self.student, setting, record.options.of(kind.Options))
        self.task.load_scaffold(load_file(record.folder / SCAFFOLD))
        self.task.eval()

    @torch.no_grad()
    def __call__(self, raw: Tensor) -> Tensor:
        """Raw images, uint8 `[B, H, W, C]` -> the student's logits `[B, classes]`, from the whole module's forward."""
        of_teacher: Outputs | StagedOutputs | None = None
        if self.teacher is not None:
            inputs = self.normalize_teacher(raw)
            of_teacher = staged_outputs(self.teacher, inputs) if self.staged else outputs(self.teacher, inputs)
        student, _ = self.task.trainable_module(self.normalize(raw), of_teacher)
        return student.logits.float()


def judge_stripped(
    ladder: Ladder, gate: Gate, model: nn.Module, normalize: PixelNormalize, trained: AsTrained
) -> Parity:
    """Hold the student out of its training-only module to the one within it, on a sample of the test images.

    Args:
        model: the stripped student, in eval mode.

    Raises:
        UserError: they differ; the sentence names the part where.
    """
    index = sample_indices(len(ladder.test.images), SAMPLE)
    # The same batches for both: a kernel may take another path for another size.
    pieces = [index[start : start + 64] for start in range(0, len(index), 64)]
    raw = [torch.from_numpy(np.array(ladder.test.images[piece])) for piece in pieces]
    within = torch.cat([trained(images) for images in raw]).numpy()
    with torch.no_grad():
        without = torch.cat([model(normalize(images)).float() for images in raw]).numpy()

    def explain(images: NDArray[np.uint8]) -> str:
        pixels = torch.from_numpy(images)
        before = module_values(trained.student, lambda: trained(pixels))
        after = module_values(model, lambda: model(normalize(pixels)))
        return in_words(first_divergence(before, after, tolerance=0.0))

    return ladder.judge(gate, without, explain, index=index, reference=within)
