"""Records of the params: the choice of what is run, and what lies outside of the project."""

from pathlib import Path

from pydantic import Field

from rsd.run.records.base import Part


class Choice(Part):
    """`params/run.json`: the names at the top of params.yaml."""

    pair: str
    data: str
    recipe: str
    methods: list[str]
    seeds: list[int]
    precisions: list[str]
    protocol: str = "ours"
    ships: str
    """`export.method`: the method whose best student ships."""

    @property
    def students(self) -> list[str]:
        """The folders of this run's students, method by method."""
        return [f"{method}-{seed}" for method in self.methods for seed in self.seeds]


class Watched(Part):
    """`params/watched.json`: what the params name outside of the project; the stage `sources` digests it."""

    data: list[Path] = Field([])
    """Images, as files and folders."""
    teacher: list[Path] = Field([])
    """Weights."""
