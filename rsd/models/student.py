"""The section `student` of the params: a model, and the weights that it starts from."""

from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, model_validator
from torch import nn

from rsd.models.make import ModelOptions, create
from rsd.models.pixels import per_channel
from rsd.models.preprocessing import Preprocessing, pixels_of
from rsd.models.timm_weights import adopt_weights, check_on_hub
from rsd.models.weights import HUB, check_weights, local_weights, watched_weights
from rsd.run.records import StartingWeights
from rsd.sources.images import DatasetRecord

NONE = "none"


def _checked(weights: str) -> str:
    return weights if weights == NONE else check_weights(weights)


class StudentStart(NamedTuple):
    """A student before any training here."""

    model: nn.Module
    preprocessing: Preprocessing
    """Mean and std are those of the weights, or of the data for new ones."""
    weights: StartingWeights | None = None
    """None: drawn from torch's random state."""
    stated_by: str = "the training images"
    """Who says what it is to be fed."""


class StudentOptions(ModelOptions):
    """The section `student` of the params."""

    weights: Annotated[str, AfterValidator(_checked)] = NONE
    """`none` draws them from the seed; others are as for a teacher, see `rsd.models.weights.Weights`. Every student of
    a run starts from them, the scratch twin, too."""

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.weights == HUB:
            check_on_hub(self.name, "student.weights hub")
        return self

    @property
    def watched(self) -> list[Path]:
        """Weights outside the project; when they change, `distill` runs again."""
        return [] if self.weights == NONE else watched_weights(self.weights)

    def start(self, data: DatasetRecord) -> StudentStart:
        """Make the student for these images; what its weights lack is drawn from torch's random state.

        Its head is new unless the weights' head is for the data's classes, as far as is known.

        Raises:
            UserError: the weights are missing, cannot be read safely or fetched, or do not fit the model.
        """
        model = create(self.model, classes=len(data.classes), image_shape=data.image_shape)
        if self.weights == NONE:
            return StudentStart(model, Preprocessing(data.mean, data.std))
        file = local_weights(self.weights, role="student")
        pixels, stated_by = pixels_of(self.name, file)
        others = pixels.label_names not in (None, data.classes)
        digest, new_head = adopt_weights(
            model, self.model, file, channels=data.channels, role="student", new_head=others
        )
        weights = StartingWeights(
            name=self.weights if file else model.pretrained_cfg["hf_hub_id"],  # type: ignore[index]
            sha256=digest,
            license=pixels.license,
            new_head=new_head,
        )
        mean, std = (per_channel(values, data.channels) for values in (pixels.mean, pixels.std))
        return StudentStart(model, Preprocessing(mean, std), weights, stated_by)
