"""What a teacher is fed: mean, std and image size, its own where they are stated beside its weights."""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError, model_validator

from rsd.machine.errors import UserError
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import DatasetRecord
from rsd.sources.listing import STATED


class Preprocessing(NamedTuple):
    """How raw pixels become a teacher's input."""

    mean: list[float]
    """Per channel, of pixels in [0, 1], as is `std`."""
    std: list[float]
    input_size: int | None = None
    """Side to which images are resized; None takes them as they are served."""

    def module(self) -> PixelNormalize:
        return PixelNormalize(self.mean, self.std, size=self.input_size)


class Stated(BaseModel):
    """What a `model.json` beside weights may say of them; its other keys are ignored."""

    classes: list[str] | None = None
    """In the order of the head."""
    mean: list[float] | None = Field(None, min_length=1)
    """Per channel, of pixels in [0, 1], as is `std`."""
    std: list[Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)
    input_size: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _both(self) -> "Stated":
        if len(self.mean or []) != len(self.std or []):
            raise ValueError("expected as many values in mean as in std")
        return self

    def above(self, mean: list[float], std: list[float], input_size: int | None, *, channels: int) -> Preprocessing:
        """The stated mean and std, or else the given ones; averaged if the images have another number of channels."""
        return Preprocessing(
            _per_channel(self.mean or mean, channels), _per_channel(self.std or std, channels), input_size
        )


def _per_channel(values: list[float], channels: int) -> list[float]:
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def read_stated(weights: Path | None) -> Stated:
    """The `model.json` beside a file of weights; empty if there is none.

    Raises:
        UserError: it is damaged, or contradicts itself.
    """
    file = weights.with_name(STATED) if weights else None
    if file is None or not file.is_file():
        return Stated()
    try:
        return Stated.model_validate_json(file.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        fault = error.errors()[0] if isinstance(error, ValidationError) else {"msg": "no text", "loc": ()}
        where = ".".join(str(part) for part in fault["loc"])
        raise UserError(
            f"expected {file} to state classes, mean, std or input_size of the weights beside it, found: "
            f"{where}{': ' if where else ''}{fault['msg']}; correct it or take it away"
        ) from error


def check_classes(stated: Stated, data: DatasetRecord, weights: Path) -> None:
    """Refuse weights whose `model.json` names other classes than the data, or the same in another order."""
    if stated.classes is None or stated.classes == data.classes:
        return
    if sorted(stated.classes) == sorted(data.classes):
        at = next(i for i, (a, b) in enumerate(zip(stated.classes, data.classes, strict=True)) if a != b)
        difference = f"the same in another order (class {at} is '{stated.classes[at]}' instead of '{data.classes[at]}')"
    else:
        unknown = [name for name in stated.classes if name not in data.classes]
        difference = f"{len(stated.classes)} classes" + (f", such as {unknown[0]!r}, unknown to it" if unknown else "")
    raise UserError(
        f"expected the data's {len(data.classes)} classes in {weights.with_name(STATED)}, found {difference}; "
        "give weights of these classes, or train a new head with teacher.source finetune"
    )
