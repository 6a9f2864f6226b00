"""The trainable parameters that RSD and OFA add while training, for each of the paper's 27 pairs.

    python -m benchmarks.overhead

Ten seconds: the models are built without weights (on PyTorch's meta device) at 224 x 224, and every number is a
distiller's own `extra_parameters`. All of it is thrown away after training: what is shipped is the student alone.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.interleaved import markdown
from rsd.machine.yaml_file import read_yaml
from rsd.methods.base import Setting
from rsd.methods.ofa import OFADistiller
from rsd.methods.rsd import RSDDistiller, RSDOptions
from rsd.models.make import ModelOptions, create, parameter_count
from rsd.models.outputs import embedding_width

PAIRS = Path(__file__).parents[1] / "conf" / "pair"
CLASSES = {"cifar100": 100, "imagenet": 1000}
SHAPE = (224, 224, 3)


class Overhead(NamedTuple):
    """Parameters of one pair."""

    data: str
    pair: str
    student: int
    extra: dict[str, int]
    """What each method adds, by its name."""


def options(pair: dict[str, Any], role: str) -> str:
    """The teacher's or student's `ModelOptions` of a described pair, as JSON."""
    return ModelOptions(name=pair[role]["name"], args=pair[role].get("args", {})).model_dump_json()


@cache
def built(options: str, classes: int) -> nn.Module:
    """A model without weights; several pairs share it."""
    with torch.device("meta"):
        return create(ModelOptions.model_validate_json(options), classes=classes, image_shape=SHAPE)


def overhead(file: Path) -> Overhead:
    """The overhead of the pair that `file` describes."""
    pair = read_yaml(file)
    classes = CLASSES[pair["data"]]
    teacher, student = (built(options(pair, role), classes) for role in ("teacher", "student"))
    width = embedding_width(teacher)
    with torch.device("meta"):
        extra = {
            f"RSD, gamma {gamma:g}": RSDDistiller(
                student, Setting(teacher_width=width), RSDOptions(gamma=gamma)
            ).extra_parameters
            for gamma in (2.0, 4.0)
        }
        extra["OFA"] = OFADistiller(student, Setting(teacher_width=width, image_shape=SHAPE)).extra_parameters
    return Overhead(pair["data"], file.stem, parameter_count(student), extra)


def overheads() -> list[Overhead]:
    """All pairs, CIFAR-100's first."""
    return [overhead(file) for data in CLASSES for file in sorted((PAIRS / data).glob("*.yaml"))]


def row(overhead_of_pair: Overhead) -> dict[str, str]:
    """A line of the table: millions, and the share of the student's own parameters."""
    return {
        "data": overhead_of_pair.data,
        "teacher-student": overhead_of_pair.pair,
        "student, M": f"{overhead_of_pair.student / 1e6:.2f}",
        **{
            f"{name}, M": f"{count / 1e6:.2f} ({count / overhead_of_pair.student:.0%})"
            for name, count in overhead_of_pair.extra.items()
        },
    }


if __name__ == "__main__":
    print(markdown([row(pair) for pair in overheads()]))
