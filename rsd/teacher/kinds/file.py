"""A finished teacher in a file, for the data's classes."""

from pathlib import Path

from pydantic import field_validator

from rsd.machine.files import sha256
from rsd.models.checkpoint_file import load_checkpoint
from rsd.models.preprocessing import check_classes, pixels_of
from rsd.models.weights import HUB, Weights, local_weights, watched_weights
from rsd.sources.images import DatasetRecord
from rsd.teacher.base import Start, TeacherOptions


class File(TeacherOptions):
    """`teacher.source: file`; images are prepared as a `config.json` beside says, or else as timm's default does."""

    weights: Weights
    """Of this model and these classes."""

    @field_validator("weights")
    @classmethod
    def _not_timms(cls, weights: str) -> str:
        if weights == HUB:
            raise ValueError("expected a path or hf-hub:ORG/NAME, found 'hub'; source hub takes timm's own weights")
        return weights

    @property
    def watched(self) -> list[Path]:
        return watched_weights(self.weights)

    def start(self, data: DatasetRecord) -> Start:
        file = local_weights(self.weights)
        assert file is not None
        pixels, stated_by = pixels_of(self.name, file)
        check_classes(pixels, data, file)
        preprocessing = self.preprocessing(data, pixels)
        model = self.new_model(data, preprocessing.input_size)
        load_checkpoint(model, file)
        return Start(model, preprocessing, sha256(file), stated_by)
