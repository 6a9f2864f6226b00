"""What a precision is to the stages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from rsd.export.divergence import first_divergence, graph_values, in_words
from rsd.export.graph import checked
from rsd.export.ladder import Explain, Ladder
from rsd.export.parity import AccuracyDelta, Gate
from rsd.machine.options import Options
from rsd.run.records import Details, Parity
from rsd.sources.images import Images, LabelledImages


@dataclass(frozen=True)
class Exported:
    """What a file is made of: the student as a graph in fp32, and what judges the file."""

    graph: onnx.ModelProto
    parts: Mapping[str, str]
    """Which part of the PyTorch model a value of the graph comes from."""
    ladder: Ladder
    gate: Gate
    """Of the precision."""
    split: Callable[[str], LabelledImages]
    """`train`, to calibrate with, or `validation`, to choose with. The test split only judges."""

    def explained(self, graph: onnx.ModelProto, tolerance: float) -> Explain:
        """Where another graph parts from this one."""

        def explain(images: NDArray[np.uint8]) -> str:
            values = graph_values(self.graph, images), graph_values(graph, images)
            return in_words(first_divergence(*values, tolerance), graph, self.parts)

        return explain


class Converted(NamedTuple):
    """A file that has passed its gate."""

    graph: onnx.ModelProto
    logits: NDArray[np.float32]
    """`[N, classes]` of all test images."""
    parity: Parity
    details: Details | None = None
    """What the record says of the conversion."""
    note: str = ""
    """A line for the terminal."""


Section = TypeVar("Section", bound=Options)


class Precision(ABC, Generic[Section]):
    """How files of a precision are made, and how far they may stray."""

    section: type[Section]
    """`export.NAME` of params.yaml; `Options` where it has none."""
    gate: ClassVar[type[Gate]] = AccuracyDelta
    """Its limit is `export.gates.NAME_KEY` of params.yaml, `limit` by default."""
    limit: ClassVar[float]
    tolerance: ClassVar[float]
    """Share of its range by which a value may differ from the same value in fp32 without being where the two part:
    above what rounding alone does."""
    golden: ClassVar[float]
    """Share of the logit range by which a device's logits may differ from this machine's: other processors and
    runtimes round and fuse differently."""
    by_runtime: ClassVar[bool] = False
    """Whether runtimes want different files."""
    largest_opset: ClassVar[tuple[int, str] | None] = None
    """Of ONNX, and the reason."""

    @abstractmethod
    def graph(self, graph: onnx.ModelProto, options: Section, images: Images, *, runs_on: str) -> onnx.ModelProto:
        """A copy of an fp32 graph of `rsd.export.trace` in this precision, before any gate.

        Args:
            images: of the training split, uint8 `[N, H, W, C]`, to calibrate with.
            runs_on: the runtime that it is for.

        Raises:
            UserError: the graph does not fit the precision.
        """

    def convert(self, exported: Exported, options: Section) -> Converted:
        """The file of this precision for the ladder's runtime, held to its gate there on all test images.

        Raises:
            UserError: as `graph`; or the gate is missed, and the sentence names the node where the two part.
        """
        images = exported.split("train").images
        graph = checked(self.graph(exported.graph, options, images, runs_on=exported.ladder.runs_on))
        logits = exported.ladder.run(graph)
        explain = exported.explained(graph, self.tolerance)
        return Converted(graph, logits, exported.ladder.judge(exported.gate, logits, explain))
