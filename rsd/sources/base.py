"""What every source of images has in common."""

from pathlib import Path
from typing import ClassVar

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
    seed: Seed = 0
    """Seed of the split."""

    @property
    def watched(self) -> list[Path]:
        """Files and folders outside the project; when one changes, `prepare` runs again."""
        return []

    def prepare(self, out: Path) -> DatasetRecord:
        """Write `train/`, `validation/` and `test/` below `out`, and describe them.

        Raises:
            UserError: the images are missing or damaged, or a class is too small to be split.
        """
        raise NotImplementedError
