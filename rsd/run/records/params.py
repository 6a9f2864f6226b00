"""Records of the params: the choice of what is run, and what lies outside of the project."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from rsd.machine.options import Options, Seed
from rsd.run.records.base import Part, Written


class Choice(Options):
    """`params/run.json`: what is run, the names at the top of params.yaml."""

    pair: str
    data: str
    recipe: str
    methods: list[str] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    precisions: list[str] = Field(min_length=1)
    protocol: Literal["ours", "paper"] = "ours"
    ships: str
    """`export.method`, or the last of `methods`: the method whose best student ships."""

    @field_validator("methods", "seeds", "precisions")
    @classmethod
    def _each_once(cls, names: list[Any]) -> list[Any]:
        if len(set(names)) < len(names):
            raise ValueError(f"expected each of them once, found {names}")
        return names

    @property
    def students(self) -> list[str]:
        """The folders of this run's students, method by method."""
        return [f"{method}-{seed}" for method in self.methods for seed in self.seeds]


class Sources(Written):
    """`sources/KIND.json`: digests of what a kind of `Watched` names, by path. The file is the plain mapping."""

    kind: Literal["data", "teacher", "student"]
    digests: dict[str, str | dict[str, str]]

    location = "sources/{0.kind}.json"

    def content(self) -> Any:
        return self.digests


class Watched(Part):
    """`params/watched.json`: what the params name outside of the project; the stage `sources` digests it."""

    data: list[Path] = Field([])
    """Images, as files and folders."""
    teacher: list[Path] = Field([])
    """Weights, as are the student's."""
    student: list[Path] = Field([])
