"""A teacher that is trained here from random weights."""

from typing import ClassVar

from rsd.sources.images import DatasetRecord
from rsd.teacher.base import Start, TeacherOptions
from rsd.teacher.preprocessing import Preprocessing


class Pretrain(TeacherOptions):
    """`teacher.source: pretrain`; images are normalised by the data's mean and std."""

    trained: ClassVar[bool] = True
    recipe: str

    def start(self, data: DatasetRecord) -> Start:
        return Start(self.new_model(data, self.input_size), Preprocessing(data.mean, data.std, self.input_size), None)
