"""A teacher that starts from timm's weights, gets a new head, and is trained here."""

from pathlib import Path
from typing import ClassVar

from pydantic import model_validator

from rsd.machine.options import UserPath
from rsd.models.timm_weights import check_on_hub
from rsd.sources.images import DatasetRecord
from rsd.sources.listing import weights_file
from rsd.teacher.base import Start, TeacherOptions


class Finetune(TeacherOptions):
    """`teacher.source: finetune`; images are normalised as the weights were trained."""

    trained: ClassVar[bool] = True
    recipe: str
    path: UserPath | None = None
    """A checkpoint of this model and any classes, or a folder with `model.safetensors`; null: timm's hub."""

    @model_validator(mode="after")
    def _has_weights(self) -> "Finetune":
        if self.path is None:
            check_on_hub(self.name, f"source '{self.source}'")
        return self

    @property
    def watched(self) -> list[Path]:
        return [self.path] if self.path else []

    def start(self, data: DatasetRecord) -> Start:
        return self.start_from_timm(data, weights_file(self.path) if self.path else None)
