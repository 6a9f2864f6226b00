"""A finished teacher in a file, for the data's classes."""

from pathlib import Path

from rsd.machine.files import sha256
from rsd.machine.options import UserPath
from rsd.sources.images import DatasetRecord
from rsd.sources.listing import weights_file
from rsd.teacher.base import Start, TeacherOptions
from rsd.teacher.checkpoint_file import load_checkpoint
from rsd.teacher.preprocessing import check_classes, read_stated


class File(TeacherOptions):
    """`teacher.source: file`; images are normalised by the data's mean and std, or as a `model.json` beside states."""

    path: UserPath
    """A `.safetensors` or timm-style `.pth` checkpoint of this model and these classes, or a folder with
    `model.safetensors`."""

    @property
    def watched(self) -> list[Path]:
        return [self.path]

    def start(self, data: DatasetRecord) -> Start:
        file = weights_file(self.path)
        stated = read_stated(file)
        input_size = self.input_size or stated.input_size
        model = self.new_model(data, input_size)
        check_classes(stated, data, file)
        load_checkpoint(model, file)
        return Start(model, stated.above(data.mean, data.std, input_size, channels=data.channels), sha256(file))
