"""The ladder from a trained student to a file: each rung compared on real test images with what lies below it."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from rsd.export.parity import Gate, GateError, compare
from rsd.export.run_graph import logits_in
from rsd.export.runtimes import MAIN
from rsd.machine.errors import UserError
from rsd.run.records import Parity
from rsd.sources.images import LabelledImages

SAMPLE = 512  # test images on which the rung `stripped` is compared; files are compared on all

Explain = Callable[[NDArray[np.uint8]], str]  # where a rung and the one below it part for these images, as a clause


class Ladder:
    """Compares the rungs with the trained student; a gate that is missed stops with the node where the two part.

    Args:
        expected: logits of the stripped student in PyTorch, float32 `[N, classes]`, of all test images.
        test: the test split, which judges and chooses nothing.
        runs_on: the runtime that graphs are run in.
        threads: its CPU threads.
    """

    def __init__(
        self, expected: NDArray[np.float32], test: LabelledImages, *, runs_on: str = MAIN, threads: int = 1
    ) -> None:
        self.expected, self.test, self.runs_on, self.threads = expected, test, runs_on, threads

    def run(self, graph: onnx.ModelProto) -> NDArray[np.float32]:
        """The graph's logits of all test images, `[N, classes]`."""
        return logits_in(self.runs_on, graph, self.test.images, threads=self.threads)

    def judge(
        self,
        gate: Gate,
        logits: NDArray[np.float32],
        explain: Explain | None = None,
        *,
        index: NDArray[np.integer] | None = None,
        reference: NDArray[np.float32] | None = None,
    ) -> Parity:
        """Compare the logits of a rung with the reference, and hold them to the rung's gate.

        Args:
            explain: where the two part; None leaves it unsaid, and the GateError as it is.
            index: which test images these are; None: all.
            reference: what they are compared with; None: `expected`.

        Raises:
            UserError: the gate is missed.
        """
        index = np.arange(len(self.test.images)) if index is None else index
        try:
            return self._judge(gate, logits, index, self.expected[index] if reference is None else reference)
        except GateError as error:
            if explain is None:
                raise
            raise UserError(f"{error}; {explain(self.test.images[np.array(error.images)])}") from error

    def _judge(
        self, gate: Gate, logits: NDArray[np.float32], index: NDArray[np.integer], reference: NDArray[np.float32]
    ) -> Parity:
        try:
            record = compare(reference, logits, self.test.labels[index], near_tie=gate.near_tie)
        except GateError as error:
            raise GateError(f"{gate.rung}: {error}", index[error.images].tolist()) from error
        record.worst_images = index[record.worst_images].tolist()
        gate.check(record)
        against = "as trained" if gate.rung == "stripped" else "stripped"
        return Parity(rung=gate.rung, against=against, **record.model_dump())
