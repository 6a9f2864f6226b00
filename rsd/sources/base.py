"""What every source of images has in common."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from rsd.machine.kinds import Kind
from rsd.machine.options import Seed
from rsd.sources.images import DatasetRecord


class Source(Kind):
    """A source of images: the section `data` of the params, and how its images become fixed splits.

    Each file of `rsd/sources/kinds/` is one; `data.source` names it.
    """

    package: ClassVar[str] = "rsd.sources.kinds"
    thing: ClassVar[str] = "a source of images"

    validation: float = Field(0.1, gt=0, lt=0.5)
    """Share of the training images in the validation split; stratified by class."""
    hold_out: bool = True
    """Whether training leaves the validation images out; false only to follow a protocol without validation."""
    train_share: float = Field(1.0, gt=0, le=1)
    """Share of the training images that are used, stratified by class: it shows what fewer images cost. The validation
    and test splits stay as they are."""
    teacher_share: float = Field(0.0, ge=0, lt=1)
    """Share of the training images, stratified by class, on which a teacher that is trained here learns and students
    do not. A teacher that has learned a student's images remembers their labels, also those that are hidden from the
    student."""
    labelled: Annotated[int, Field(ge=2, le=100_000_000)] | Annotated[float, Field(gt=0, le=1)] | None = None
    """How many of the student's training images have a label, or their share; the labels of the others are hidden.
    null: all that the source knows."""
    seed: Seed = 0
    """Seed of the split."""

    @property
    def watched(self) -> list[Path]:
        """Files and folders outside the project; when one changes, `prepare` runs again."""
        return []

    def prepare(self, out: Path) -> DatasetRecord:
        """Write `train/`, `validation/`, `test/` and `teacher/` below `out`, and describe them.

        `teacher/` holds what a teacher that is trained here learns from: images set apart by `teacher_share`, or all
        training images with a label.

        Raises:
            UserError: the images are missing or damaged, or a class is too small to be split.
        """
        raise NotImplementedError
