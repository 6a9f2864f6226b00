"""A finished teacher in a file, for the data's classes."""

from pathlib import Path

from rsd.machine.files import sha256
from rsd.machine.options import UserPath
from rsd.models.checkpoint_file import load_checkpoint
from rsd.models.preprocessing import check_classes, pixels_of
from rsd.sources.images import DatasetRecord
from rsd.sources.listing import weights_file
from rsd.teacher.base import Start, TeacherOptions


class File(TeacherOptions):
    """`teacher.source: file`; images are prepared as a `config.json` beside says, or else as timm's default does."""

    path: UserPath
    """A `.safetensors` or timm-style `.pth` checkpoint of this model and these classes, or a folder with
    `model.safetensors` and `config.json`, as rsd and `timm.models.save_for_hf` write it."""

    @property
    def watched(self) -> list[Path]:
        return [self.path]

    def start(self, data: DatasetRecord) -> Start:
        file = weights_file(self.path)
        pixels, stated_by = pixels_of(self.name, file)
        check_classes(pixels, data, file)
        preprocessing = self.preprocessing(data, pixels)
        model = self.new_model(data, preprocessing.input_size)
        load_checkpoint(model, file)
        return Start(model, preprocessing, sha256(file), stated_by)
