"""The record that a device makes of a kit, checked when it is read, and the record of trained students."""

import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, JsonValue, model_validator

from rsd.machine.errors import UserError
from rsd.machine.faults import read_checked
from rsd.measure.budget.runner import FORMAT
from rsd.measure.latency import statistics
from rsd.run.records import LatencyRecord, Name
from rsd.run.records.base import Part
from rsd.run.snapshot import Snapshot

LARGEST = 500_000_000  # bytes of a device's JSON; 60 rows of 20,000 samples take a fortieth of it

Kind = TypeVar("Kind", bound=BaseModel)


class Architecture(Part):
    """An architecture for images of one shape: latency belongs to it, whatever its weights are."""

    model: Name
    """timm name."""
    args: dict[Name, JsonValue]
    image: tuple[int, int, int]
    """Height, width, channels."""
    classes: int = Field(ge=1)

    def same(self, other: "Architecture") -> bool:
        return all(getattr(self, key) == getattr(other, key) for key in Architecture.model_fields)


class Packed(Part):
    """One file of a kit."""

    path: Name
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class KitStudent(Architecture):
    """A student of a kit, in each precision."""

    name: Name
    parameters: int = Field(ge=1)
    files: dict[Name, Packed]


class KitRecord(LatencyRecord):
    """A benchmark's record with the candidates that it timed and every raw sample."""

    format: int
    candidates: list[KitStudent]
    samples: list[list[list[Annotated[int, Field(ge=1)]]]]
    """Nanoseconds per measured row, round and call."""

    @model_validator(mode="after")
    def _whole(self) -> "KitRecord":
        if self.format != FORMAT:
            raise ValueError(f"this project reads format {FORMAT}, and this is format {self.format}")
        measured = [row for row in self.rows if row.status == "measured"]
        if len(measured) != len(self.samples):
            raise ValueError(f"there are {len(measured)} measured rows and samples of {len(self.samples)}")
        packed = {(one.path, precision) for model in self.candidates for precision, one in model.files.items()}
        for row in self.rows:
            if (row.file, row.precision) not in packed:
                raise ValueError(f"row '{row.file}' is of none of the candidates")
        for row, rounds in zip(measured, self.samples, strict=True):
            if not rounds or not all(rounds):
                raise ValueError(f"row '{row.file}' has a round without a sample")
            for name, value in statistics(rounds, row.batch).items():
                if not _equal(getattr(row, name), value):
                    raise ValueError(f"row '{row.file}': {name} does not follow from its samples")
        return self


class TrainedStudent(Architecture):
    """A student that was trained and shipped here, with its accuracy on the test split."""

    data: Name
    """The name under conf/data."""
    student: Name
    """Method and seed."""
    top1: dict[Name, Annotated[float, Field(ge=0, le=100)]]
    """Per cent, by precision of the exported file."""
    images: int = Field(ge=1)
    parameters: int = Field(ge=1)


def read_device(path: Path) -> KitRecord:
    """A device's JSON; UserError names the first fault if it is missing, too large, or does not hold together."""
    return _checked(path, KitRecord, "the JSON that a kit's run.py wrote", "run the kit again and copy the file")


def read_trained(path: Path) -> list[TrainedStudent]:
    """The students in the file; none if it does not exist. Raises UserError as `read_device`."""
    if not path.is_file():
        return []
    return _checked(path, _Ledger, "what `rsd budget keep` wrote", "restore or delete it").students


class _Ledger(Part):
    students: list[TrainedStudent]


def _checked(path: Path, kind: type[Kind], what: str, then: str) -> Kind:
    if path.is_file() and path.stat().st_size > LARGEST:
        raise UserError(f"expected {what}, found more than {LARGEST:,} bytes in {path}; {then}")
    return read_checked(path, kind, what=what, then=then)


def shipped_student(known: Snapshot) -> TrainedStudent | None:
    """The student that a run ships; None if the run has not come that far or its records do not fit together."""
    evaluation = known.shipped_evaluation
    student = next((one for one in known.students if evaluation and one.name == evaluation.model), None)
    if evaluation is None or student is None or not known.converted:
        return None
    return TrainedStudent(
        model=student.model.name,
        args=student.model.args,
        image=student.image_shape,
        classes=len(student.classes),
        data=known.choice.data,
        student=student.name,
        # The test accuracy of PyTorch, moved by what the parity record says of the file.
        top1={file.precision: evaluation.top1 + file.main.parity.accuracy_delta_points for file in known.converted},
        images=evaluation.images,
        parameters=student.parameters,
    )


def _equal(actual: Any, expected: Any) -> bool:
    if isinstance(actual, list) and isinstance(expected, list):
        return len(actual) == len(expected) and all(map(_equal, actual, expected))
    if isinstance(actual, float) and isinstance(expected, float):
        return math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-12)
    return bool(actual == expected)
