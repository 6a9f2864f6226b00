"""Do two teachers of different architectures teach more than the better one alone? Digits and Fashion-MNIST.

    python -m benchmarks.study.two_teachers    # half an hour on busy cores; started again, it runs what is missing

A prototype, not a part of the pipeline: a CNN and an MLP-Mixer, trained on images that the student does not get, teach
a ViT. The student has one RSD term and one AAD for each teacher; KD's target is the mean of the teachers' softened
logits. Three ways to weigh two teachers stand beside each teacher alone (RSD + KD), by seed. Writes a row per student
to docs/study/two_teachers.csv and the table between its marks in docs/few_labels.md.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.marked import put, table
from benchmarks.study.taught import Images, append, gain, missing, over_seeds, recipe_of, rows, stored, student, teacher
from rsd.machine.compute import ComputeOptions, set_up
from rsd.methods.base import Distiller, MethodOptions, Setting, Step
from rsd.methods.kd import kd_loss
from rsd.methods.rsd import AAD, rsd_loss
from rsd.models.make import ModelOptions
from rsd.models.outputs import Outputs, embedding_width
from rsd.training.loop import Teacher
from rsd.training.recipe import Recipe, make_criterion

PAGE, FILE = Path("docs/few_labels.md"), Path("docs/study/two_teachers.csv")
SEEDS = (0, 1, 2)
RSD_WEIGHT = 0.1


class Case(NamedTuple):
    """Images, two teachers and a student."""

    data: str
    """Of conf/data."""
    labelled: int | float
    teachers: dict[str, ModelOptions]
    teacher_recipe: str
    student: ModelOptions
    recipe: str
    views: int


def _vit(size: int, patch: int, width: int) -> ModelOptions:
    args = {"img_size": size, "patch_size": patch, "embed_dim": width, "depth": 2, "num_heads": 4}
    return ModelOptions(name="vit_tiny_patch16_224", args=args | {"class_token": False, "global_pool": "avg"})


def _cnn(channels: Sequence[int]) -> ModelOptions:
    args = {"layers": [1, 1, 1, 1], "channels": [*channels], "stem_type": "deep", "stem_width": 16}
    return ModelOptions(name="resnet18", args=args)


def _mlp(size: int, patch: int, width: int) -> ModelOptions:
    args = {"img_size": size, "patch_size": patch, "embed_dim": width, "num_blocks": 4}
    return ModelOptions(name="mlp_mixer", args=args)


CASES = {
    "digits": Case(
        "digits_few", 20, {"CNN": _cnn([16, 32, 64, 64]), "MLP": _mlp(16, 4, 64)}, "digits_cnn", _vit(16, 4, 32),
        "digits_few", 30,
    ),
    "Fashion-MNIST": Case(
        "fashion_few", 0.005, {"CNN": _cnn([32, 64, 128, 256]), "MLP": _mlp(32, 8, 128)}, "fashion_teacher",
        _vit(32, 8, 32), "fashion_few", 8,
    ),
}  # fmt: skip


class Arm(NamedTuple):
    """Who teaches: the weight of each teacher's RSD term, and whose logits KD takes the mean of."""

    rsd: dict[str, float]
    kd: tuple[str, ...]


def arms(better: str, other: str) -> dict[str, Arm]:
    """Each teacher alone, and three ways to take both."""
    both = (better, other)
    return {
        "better alone": Arm({better: RSD_WEIGHT}, (better,)),
        "other alone": Arm({other: RSD_WEIGHT}, (other,)),
        "both": Arm(dict.fromkeys(both, RSD_WEIGHT), both),
        "both, half the weight each": Arm(dict.fromkeys(both, RSD_WEIGHT / 2), both),
        "RSD of the better, KD of both": Arm({better: RSD_WEIGHT}, both),
    }


class TermOptions(MethodOptions):
    """The RSD terms of several teachers."""

    weights: tuple[float, ...]
    widths: tuple[int, ...]
    """Of the teachers' embeddings, which come side by side."""


class Decouplers(nn.Module):
    """An AAD for each teacher."""

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = [*widths]
        self.aads = nn.ModuleList(AAD(width, other) for other in widths)

    def forward(self, student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
        parts = teacher.embedding.split(self.widths, dim=1)
        return [(aad(student.embedding), part) for aad, part in zip(self.aads, parts, strict=True)]


class SeveralTeachers(Distiller, method="several_teachers"):
    """Cross-entropy + a weighted RSD term for each teacher + KD from the mean of their softened logits."""

    needs = frozenset({"embedding", "logits"})
    Options = TermOptions
    options: TermOptions

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module:
        return Decouplers(embedding_width(student), self.options.widths)

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        pairs = zip(self.options.weights, step.adapted, strict=True)
        rsd = torch.stack([weight * rsd_loss(student, teacher) for weight, (student, teacher) in pairs]).sum()
        kd = kd_loss(step.student.logits, step.teacher.logits)
        return rsd + kd, {"rsd": rsd, "kd": kd}


@dataclass(frozen=True)
class Together:
    """Several stores as one teacher: their embeddings side by side, and logits whose softmax is the mean of theirs."""

    embeddings: Sequence[Teacher]
    logits: Sequence[Teacher]

    def __call__(self, raw: Tensor, index: np.ndarray, view: np.ndarray) -> Outputs:
        embedding = torch.cat([store(raw, index, view).embedding.float() for store in self.embeddings], dim=1)
        chances = torch.stack([store(raw, index, view).logits.float().log_softmax(dim=1) for store in self.logits])
        return Outputs(embedding, chances.logsumexp(dim=0) - np.log(len(self.logits)))


def run_case(name: str) -> None:
    """Train the students of a case that `FILE` has not."""
    case = CASES[name]
    cells = missing(FILE, ["data", "seed", "arm"], product([name], SEEDS, arms("", " ")))
    if not cells:
        return
    recipe = recipe_of(case.recipe)
    with tempfile.TemporaryDirectory() as folder:
        images = Images.prepared(case.data, Path(folder))
        few, stores, top1 = images.train(case.labelled), {}, {}
        for kind, options in case.teachers.items():
            model = teacher(kind, options, images, recipe_of(case.teacher_recipe))
            top1[kind] = {split: images.top1(model, split) for split in ("validation", "test")}
            stores[kind] = stored(kind, model, images, recipe, case.views)
        better, other = sorted(case.teachers, key=lambda kind: -top1[kind]["validation"])
        for _, seed, label in cells:
            arm = arms(better, other)[label]
            widths = tuple(int(stores[kind].embedding.shape[2]) for kind in arm.rsd)
            terms = TermOptions(weights=tuple(arm.rsd.values()), widths=widths)
            task = partial(_task, options=terms, recipe=recipe)
            both = Together([stores[kind] for kind in arm.rsd], [stores[kind] for kind in arm.kd])
            model = student(case.student, images, few, recipe, task, (both, case.views), seed)
            row = {
                "data": name, "labels": int((few.labels >= 0).sum()), "arm": label, "seed": seed, "better": better,
                "better_top1": top1[better]["test"], "other": other, "other_top1": top1[other]["test"],
                "test_top1": images.top1(model, "test"),
            }  # fmt: skip
            append(FILE, row)


def _task(fresh: nn.Module, options: TermOptions, recipe: Recipe) -> Distiller:
    return SeveralTeachers(fresh, Setting(teacher_width=sum(options.widths)), options, make_criterion(recipe))


def teacher_table(frame: pd.DataFrame) -> str:
    """Test top-1 of each arm, and the difference to the better teacher alone, paired by seed."""
    lines = [["data, labels", "who teaches", "test top-1 %", "less the better alone", "95 % interval"]]
    for (name, labels), part in frame.groupby(["data", "labels"], sort=False):
        by_arm = part.pivot(index="seed", columns="arm", values="test_top1")
        first = part.iloc[0]
        who = {
            "better alone": f"{first.better} alone ({first.better_top1:.2f})",
            "other alone": f"{first.other} alone ({first.other_top1:.2f})",
        }
        for arm in part.arm.unique():
            lead = ["", ""] if arm == "better alone" else gain(by_arm, arm, "better alone")
            lines.append([f"{name}, {labels}", who.get(arm, arm), over_seeds(by_arm[arm].dropna()), *lead])
    return table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    arguments = parser.parse_args()
    set_up(ComputeOptions())
    for name in arguments.cases:
        run_case(name)
    part = teacher_table(rows(FILE))
    put(PAGE, {"teachers": part})
    print(part)


if __name__ == "__main__":
    main()
