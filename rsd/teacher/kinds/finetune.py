"""A teacher that starts from others' weights, gets a new head, and is trained here."""

from pathlib import Path
from typing import ClassVar

from pydantic import model_validator

from rsd.models.timm_weights import check_on_hub
from rsd.models.weights import HUB, Weights, local_weights, watched_weights
from rsd.sources.images import DatasetRecord
from rsd.teacher.base import Start, TeacherOptions


class Finetune(TeacherOptions):
    """`teacher.source: finetune`; images are normalised as the weights were trained."""

    trained: ClassVar[bool] = True
    recipe: str
    weights: Weights = HUB
    """Of this model and any classes."""

    @model_validator(mode="after")
    def _has_weights(self) -> "Finetune":
        if self.weights == HUB:
            check_on_hub(self.name, f"source '{self.source}'")
        return self

    @property
    def watched(self) -> list[Path]:
        return watched_weights(self.weights)

    def start(self, data: DatasetRecord) -> Start:
        return self.start_from_timm(data, local_weights(self.weights))
