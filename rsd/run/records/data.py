"""The record of the prepared images."""

from typing import Literal

from pydantic import Field

from rsd.machine.words import counted
from rsd.run.records.base import Written
from rsd.run.records.files import ServedSize


class DatasetRecord(Written):
    """`dataset.json`: what a prepared data set is."""

    source: str
    kept: Literal["arrays", "files"] = "arrays"
    """Whether a split holds its images, or the paths of image files."""
    root: str | None = None
    """Folder that these paths start from."""
    crop_share: float | None = None
    """The central share of a file's shorter side that is served without augmentation."""
    classes: list[str]
    height: int
    """As served, as are width and channels."""
    width: int
    channels: int
    mean: list[float]
    """Channel means of the training split, in [0, 1]."""
    std: list[float]
    """Channel standard deviations of the training split, in [0, 1]."""
    counts: dict[str, int]
    """Images per split; also of the teacher's, where a teacher that is trained here has images of its own."""
    labelled: int | None = None
    """Images of the train split that have a label; None: all."""
    labelled_copies: int = 0
    """Images without a label that were left out, since an image with a label has the same pixels."""
    left_out: list[str] = Field([])
    """Images that could not be used, and why."""
    checksums: dict[str, str]
    """SHA-256 of every file of a split."""

    location = "data/dataset.json"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels

    @property
    def train_labels(self) -> int:
        """Images of the train split that have a label."""
        return self.counts["train"] if self.labelled is None else self.labelled

    @property
    def teacher_images(self) -> int:
        """How many images a teacher that is trained here learns from."""
        return self.counts.get("teacher", self.train_labels)

    @property
    def stated_counts(self) -> str:
        """The images of each split, in words."""
        partly = "" if self.labelled in (None, self.counts.get("train")) else f" ({self.labelled:,} with a label)"
        notes = {"train": partly, "teacher": " alone"}
        counts = ", ".join(f"{split} {count:,}{notes.get(split, '')}" for split, count in self.counts.items())
        if not self.labelled_copies:
            return counts
        copies = counted(self.labelled_copies, "image")
        return f"{counts}; left out {copies} without a label, the same as labelled ones"

    @property
    def preprocessing(self) -> ServedSize:
        files = self.kept == "files"
        return ServedSize(
            height=self.height,
            width=self.width,
            channels=self.channels,
            resize="bicubic" if files else "bilinear",
            crop_share=self.crop_share if files else None,
        )
