"""What all records have in common: where one lies, and what it was made from."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PrivateAttr, RootModel

from rsd.machine.files import write_json

# What is printed on terminals and pages: no control characters, no novels.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


Kind = TypeVar("Kind", bound=BaseModel)


class Section(RootModel[dict[str, JsonValue]]):
    """A section of the params as a record holds it. Its type stands in a room below this one."""

    def of(self, kind: type[Kind]) -> Kind:
        """The section as its type; ValidationError if it is not of it."""
        return kind.model_validate(self.root)


class Part(BaseModel):
    """A part of a record: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Written(Part):
    """A file of JSON that a stage writes."""

    _folder: Path | None = PrivateAttr(default=None)

    location: ClassVar[str]
    """Path below the run's folder, with fields of the record, such as `{0.name}`."""

    @property
    def place(self) -> str:
        """Path below the run's folder."""
        return self.location.format(self)

    @property
    def folder(self) -> Path:
        """The folder that the record was read from, or written to."""
        if self._folder is None:
            raise ValueError(f"expected {self.place} as it was read or written by a run, found it in memory only")
        return self._folder

    @property
    def file(self) -> Path:
        """The record itself, there."""
        return self.folder / Path(self.place).name

    def content(self) -> Any:
        """What is written."""
        return self.model_dump(mode="json")

    def write(self, folder: Path) -> None:
        """Write the record into `folder`, such as one that is written aside. `Run.write` knows its place."""
        write_json(folder / Path(self.place).name, self.content())


class Record(Written):
    """What a stage says of its work, and what it was made from."""

    made_from: dict[str, str] = {}
    """SHA-256 of each file that the record's stage read, by the file's path below the run's folder."""

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of what lies beside the record and is read by later stages, by its path below the run's folder."""
        return {}
