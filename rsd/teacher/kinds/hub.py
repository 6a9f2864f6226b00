"""timm's weights from its hub as they are, head and all."""

import timm
from pydantic import model_validator

from rsd.machine.errors import UserError
from rsd.models.timm_weights import check_on_hub
from rsd.sources.images import DatasetRecord
from rsd.teacher.base import Start, TeacherOptions


class Hub(TeacherOptions):
    """`teacher.source: hub`; images are normalised as the weights were trained."""

    @model_validator(mode="after")
    def _has_weights(self) -> "Hub":
        check_on_hub(self.name, f"source '{self.source}'")
        return self

    def start(self, data: DatasetRecord) -> Start:
        cfg = timm.get_pretrained_cfg(self.name)
        classes = cfg.num_classes if cfg else 0
        if classes != len(data.classes):
            raise UserError(
                f"expected a head for {len(data.classes)} classes, as the data has, found {classes} in timm's "
                f"'{self.name}'; train a new head with teacher.source finetune"
            )
        return self.start_from_timm(data)
