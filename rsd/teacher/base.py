"""What every kind of teacher has in common."""

from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field
from torch import nn

from rsd.machine.errors import UserError
from rsd.machine.kinds import Kind
from rsd.models.make import ModelOptions, create
from rsd.sources.images import DatasetRecord
from rsd.teacher.preprocessing import Preprocessing


class Start(NamedTuple):
    """A teacher before any training here."""

    model: nn.Module
    preprocessing: Preprocessing
    weights: str | None
    """SHA-256 of the weights from elsewhere that it starts from; None for random ones."""


class TeacherOptions(Kind, ModelOptions):
    """The section `teacher` of the params: a model by its timm name, and where its weights come from.

    Each file of `rsd/teacher/kinds/` is one kind of teacher; `teacher.source` names it.
    """

    package: ClassVar[str] = "rsd.teacher.kinds"
    thing: ClassVar[str] = "a kind of teacher"
    trained: ClassVar[bool] = False
    """Whether this kind is trained here, by a recipe."""

    source: str = "pretrain"
    recipe: str | None = None
    """For a kind that is trained here: a name in conf/recipe. Other kinds ignore it."""
    seed: int = Field(0, ge=0)
    """Seed of new weights and, for a kind that is trained here, of the order and the views."""
    input_size: int | None = Field(None, ge=8)
    """Side in pixels to which images are resized for the teacher alone; null takes them as they are served."""
    min_top1: float = Field(0.0, ge=0, le=100)
    """Validation top-1 in per cent below which the pipeline stops."""

    @property
    def model(self) -> ModelOptions:
        return ModelOptions(name=self.name, args=self.args)

    @property
    def watched(self) -> list[Path]:
        """Weights outside the project; when they change, `teacher` runs again."""
        return []

    def start(self, data: DatasetRecord) -> Start:
        """Make the teacher with the weights it starts from; new weights are drawn from torch's random state.

        Raises:
            UserError: the weights are missing, cannot be read safely or fetched, or do not fit the model and classes.
        """
        raise NotImplementedError

    def new_model(self, data: DatasetRecord, input_size: int | None) -> nn.Module:
        """The model with random weights, for the data's classes and images of `input_size`; None: as served."""
        shape = (input_size or data.height, input_size or data.width, data.channels)
        return create(self.model, classes=len(data.classes), image_shape=shape)

    def check_accuracy(self, top1: float) -> None:
        """Stop a pipeline whose teacher is too weak.

        Raises:
            UserError: the validation top-1 (per cent) is below `min_top1`.
        """
        if top1 < self.min_top1:
            raise UserError(
                f"expected a teacher with at least {self.min_top1:.2f} % validation top-1, found {top1:.2f} %; "
                "train it longer, check that its classes are in the data set's order, or lower teacher.min_top1"
            )
