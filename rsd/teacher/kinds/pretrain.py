"""A teacher that is trained here from random weights."""

from typing import ClassVar

from rsd.models.folder import Pixels
from rsd.sources.images import DatasetRecord
from rsd.teacher.base import Start, TeacherOptions


class Pretrain(TeacherOptions):
    """`teacher.source: pretrain`; images are normalised by the data's mean and std."""

    trained: ClassVar[bool] = True
    recipe: str

    def start(self, data: DatasetRecord) -> Start:
        fed = self.preprocessing(data, Pixels(mean=data.mean, std=data.std))
        return Start(self.new_model(data, fed.input_size), fed, None, "the training images")
