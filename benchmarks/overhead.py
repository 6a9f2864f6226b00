"""The trainable parameters that RSD and OFA add while training, for each of the paper's 27 pairs.

    python -m benchmarks.overhead

Ten seconds: the models are built without weights (on PyTorch's meta device) at 224 x 224, and every number is a
distiller's own `extra_parameters`. All of it is thrown away after training: what is shipped is the student alone.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.interleaved import markdown
from rsd.machine.yaml_file import read_yaml
from rsd.methods.base import Distiller, Setting
from rsd.methods.ofa import OFADistiller
from rsd.methods.rsd import RSDDistiller, RSDOptions
from rsd.models.make import ModelOptions, create, parameter_count
from rsd.models.outputs import embedding_width

PAIRS = Path(__file__).parents[1] / "conf" / "pair"
CLASSES = {"cifar100": 100, "imagenet": 1000}
SHAPE = (224, 224, 3)


def options(pair: dict[str, Any], role: str) -> str:
    """The teacher's or student's `ModelOptions` of a described pair, as JSON."""
    return ModelOptions(name=pair[role]["name"], args=pair[role].get("args", {})).model_dump_json()


@cache
def built(options: str, classes: int) -> nn.Module:
    """A model without weights; several pairs share it."""
    with torch.device("meta"):
        return create(ModelOptions.model_validate_json(options), classes=classes, image_shape=SHAPE)


def overhead(file: Path) -> tuple[int, dict[str, int]]:
    """Parameters of the student of the pair that `file` describes, and what each method adds, by its name."""
    pair = read_yaml(file)
    classes = CLASSES[pair["data"]]
    teacher, student = (built(options(pair, role), classes) for role in ("teacher", "student"))
    width = embedding_width(teacher)
    with torch.device("meta"):
        setting = Setting(teacher_width=width, image_shape=SHAPE)
        rsd = {f"RSD, gamma {g:g}": RSDDistiller(student, setting, RSDOptions(gamma=g)) for g in (2.0, 4.0)}
        tasks: dict[str, Distiller] = {**rsd, "OFA": OFADistiller(student, setting)}
    return parameter_count(student), {name: task.extra_parameters for name, task in tasks.items()}


def pair_files() -> list[Path]:
    """Of all pairs, CIFAR-100's first."""
    return [file for data in CLASSES for file in sorted((PAIRS / data).glob("*.yaml"))]


def row(file: Path) -> dict[str, str]:
    """A line of the table: millions, and the share of the student's own parameters."""
    student, extra = overhead(file)
    extras = {f"{name}, M": f"{count / 1e6:.2f} ({count / student:.0%})" for name, count in extra.items()}
    return {"data": file.parent.name, "teacher-student": file.stem, "student, M": f"{student / 1e6:.2f}", **extras}


if __name__ == "__main__":
    print(markdown([*map(row, pair_files())]))
