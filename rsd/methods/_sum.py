"""Several methods at once, such as `rsd+kd`: the terms of all of them beside one cross-entropy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, create_model
from torch import Tensor, nn

from rsd.methods.base import Distiller, MethodOptions, Setting, Step
from rsd.models.features import StagedOutputs
from rsd.models.outputs import Outputs
from rsd.run.records import CorrelationChange


class Scaffolds(nn.ModuleDict):
    """The scaffolds of the methods that have one, by method."""

    def forward(self, student: Outputs | StagedOutputs, teacher: Outputs | StagedOutputs) -> dict[str, object]:
        return {method: scaffold(student, teacher) for method, scaffold in self.items()}


class SumDistiller(Distiller):
    """Cross-entropy + the terms of several methods, each with its own options and its own scaffold."""

    kinds: ClassVar[tuple[type[Distiller], ...]]

    @classmethod
    def couples_batch(cls, options: MethodOptions) -> bool:
        return any(kind.couples_batch(getattr(options, kind.method)) for kind in cls.kinds)

    def make_scaffold(self, student: nn.Module, setting: Setting) -> nn.Module | None:
        # A tuple hides the parts from PyTorch: student and scaffolds are this task's to train, to move and to save.
        self.parts = tuple(kind(student, setting, getattr(self.options, kind.method)) for kind in self.kinds)
        scaffolds = {part.method: part.trainable_module.projection for part in self.parts}
        own_scaffolds = {method: scaffold for method, scaffold in scaffolds.items() if scaffold is not None}
        return Scaffolds(own_scaffolds) if own_scaffolds else None  # type: ignore[arg-type]

    def distillation_terms(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        sum_of_parts, log = step.student.logits.new_zeros(()), dict[str, Tensor]()
        for part in self.parts:
            adapted = (step.adapted or {}).get(part.method)
            loss, scalars = part.distillation_terms(replace(step, adapted=adapted))
            sum_of_parts = sum_of_parts + loss
            log |= {f"{part.method}_{key}" if key in log else key: value for key, value in scalars.items()}
        return sum_of_parts, log

    def advice(self, *, batch_size: int, classes: int) -> list[str]:
        return [text for part in self.parts for text in part.advice(batch_size=batch_size, classes=classes)]

    def student_side(self, student: Outputs) -> Tensor | None:
        return self._pictured.student_side(student)

    def inside(self, before: Tensor, after: Tensor, teacher: Outputs) -> CorrelationChange:
        return self._pictured.inside(before, after, teacher)

    @property
    def _pictured(self) -> Distiller:
        """The first part that offers a picture; the first of all if none does."""
        offering = (part for part in self.parts if type(part).inside is not Distiller.inside)
        return next(offering, self.parts[0])


def sum_of(kinds: Sequence[type[Distiller]]) -> type[Distiller]:
    """The method that adds up two methods or more, each once; its options hold a section for each."""
    sections: dict[str, Any] = {kind.method: (kind.Options, Field(default_factory=kind.Options)) for kind in kinds}
    members = {
        "__module__": __name__,
        "kinds": tuple(kinds),
        "needs": frozenset[Any]().union(*(kind.needs for kind in kinds)),
        "staged": any(kind.staged for kind in kinds),
        "capturable": all(kind.capturable for kind in kinds),
        "Options": create_model("SumOptions", __base__=MethodOptions, **sections),
        "paper": {kind.method: kind.paper for kind in kinds},
    }
    return type("SumDistiller", (SumDistiller,), members, method="+".join(kind.method for kind in kinds))
