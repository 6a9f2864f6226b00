"""What every kind of teacher has in common."""

from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator
from timm.layers import to_2tuple
from torch import nn

from rsd.machine.errors import UserError
from rsd.machine.kinds import Kind
from rsd.machine.options import Seed
from rsd.models.chance import too_weak
from rsd.models.folder import Pixels
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import per_channel
from rsd.models.preprocessing import Preprocessing, pixels_of
from rsd.models.timm_weights import adopt_weights, check_on_hub
from rsd.models.weights import HUB, Weights, local_weights, watched_weights
from rsd.run.records import ProbeRecord, Validation
from rsd.sources.images import DatasetRecord, LabelledImages


class Start(NamedTuple):
    """A teacher before any training here."""

    model: nn.Module
    preprocessing: Preprocessing
    weights: str | None
    """SHA-256 of the weights from elsewhere that it starts from; None for random ones."""
    stated_by: str = "its kind"
    """Who says what it is to be fed."""


class TeacherOptions(Kind, ModelOptions):
    """The section `teacher` of the params: a model by its timm name, and where its weights come from.

    Each file of `rsd/teacher/kinds/` is one kind of teacher; `teacher.source` names it.
    """

    package: ClassVar[str] = "rsd.teacher.kinds"
    thing: ClassVar[str] = "a kind of teacher"
    trained: ClassVar[bool] = False
    """Whether this kind is trained here, by a recipe."""
    if_too_weak: ClassVar[str] = "check that its classes are in the data set's order; train it longer"
    """What else to do about a teacher that is no good."""

    source: str = "pretrain"
    recipe: str | None = None
    """For a kind that is trained here: a name in conf/recipe. Other kinds ignore it."""
    seed: Seed = 0
    """Seed of new weights and, for a kind that is trained here, of the order and the views."""
    input_size: int | None = Field(None, ge=8, le=8192)
    """Side in pixels to which images are resized for the teacher alone; null takes them as they are served, or, for
    finished weights that state their size, at that size."""
    mean: list[float] | None = None
    """Per channel, of pixels in [0, 1], as is `std`; null takes those of the weights, or of the data for new ones."""
    std: list[Annotated[float, Field(gt=0)]] | None = None
    min_top1: float | None = Field(None, ge=0, le=100)
    """Validation top-1 in per cent below which the pipeline stops; null: it must be better than always giving the most
    frequent class, by a binomial test."""

    @model_validator(mode="after")
    def _mean_and_std(self) -> Self:
        if bool(self.mean) != bool(self.std) or len(self.mean or []) != len(self.std or []):
            raise ValueError(f"expected mean and std, with as many values, found {self.mean} and {self.std}")
        return self

    @property
    def watched(self) -> list[Path]:
        """Weights outside the project; when they change, `teacher` runs again."""
        return []

    def start(self, data: DatasetRecord) -> Start:
        """The teacher with its first weights, or random ones from torch's state; UserError if they do not fit."""
        raise NotImplementedError

    def start_from_timm(self, data: DatasetRecord, file: Path | None = None) -> Start:
        """The teacher with timm's weights from `file` or its hub; a head of another shape is new. Errors as `start`."""
        pixels, stated_by = pixels_of(self.name, file)
        preprocessing = self.preprocessing(data, pixels)
        model = self.new_model(data, preprocessing.input_size)
        digest, _ = adopt_weights(model, self.model, file, channels=data.channels, role="teacher")
        return Start(model, preprocessing, digest, stated_by)

    def fit(
        self, start: Start, train: LabelledImages, validation: LabelledImages, *, workers: int
    ) -> tuple[Validation, ProbeRecord] | None:
        """Fit the classifier of `start.model` in place, without gradients; None: this kind has none to fit.

        Args:
            start: with its model on the device to use.
            train: the student's training images.
            workers: processes that read and decode the images.

        Raises:
            UserError: the classifier cannot be fitted to these labels, or the model has none that could be.
        """
        return None

    def new_model(self, data: DatasetRecord, input_size: int | None) -> nn.Module:
        """The model with random weights, for the data's classes and images of `input_size`; None: as served."""
        shape = (input_size or data.height, input_size or data.width, data.channels)
        return create(self.model, classes=len(data.classes), image_shape=shape)

    def preprocessing(self, data: DatasetRecord, pixels: Pixels) -> Preprocessing:
        """What the teacher is fed: what the params say, or else what `pixels` says.

        A finished teacher gets images of the size that its `args`, or else its weights, name; one that is trained here
        takes them as they are served.

        Raises:
            UserError: its input is not square.
        """
        height, width = to_2tuple(self.args.get("img_size", (pixels.input_size or (0, 0, 0))[1:]))
        side = self.input_size
        if not (side or self.trained or (height, width) == (data.height, data.width)):
            if height != width:
                raise UserError(
                    f"expected weights for square images, found {height} x {width}; set teacher.input_size to a side"
                )
            side = height
        mean, std = (
            per_channel(values, data.channels) for values in (self.mean or pixels.mean, self.std or pixels.std)
        )
        return Preprocessing(mean, std, side or None, pixels.interpolation if side else "bicubic")

    def check_accuracy(self, top1: float, labels: np.ndarray, fed: Preprocessing) -> None:
        """Stop a pipeline whose teacher is too weak.

        Args:
            top1: on the validation images, in per cent.
            labels: of these images.
            fed: what it was fed.

        Raises:
            UserError: `top1` is below `min_top1`, or, where that is null, no better than the most frequent class.
        """
        if fault := too_weak(top1, labels, self.min_top1):
            raise UserError(
                f"expected a teacher with {fault} on validation; it was fed {fed}: correct teacher.mean, teacher.std "
                f"and teacher.input_size if its weights were trained on other pixels; {self.if_too_weak}, or lower "
                "teacher.min_top1"
            )


class FromWeights(TeacherOptions):
    """What kinds have in common that take weights with any head, or none."""

    weights: Weights = HUB

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.weights == HUB:
            check_on_hub(self.name, f"source '{self.source}'")
        return self

    @property
    def watched(self) -> list[Path]:
        return watched_weights(self.weights)

    def start(self, data: DatasetRecord) -> Start:
        return self.start_from_timm(data, local_weights(self.weights))
