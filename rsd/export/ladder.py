"""The ladder from a trained student to a file: each rung compared on real test images with what lies below it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rsd.export.divergence import (
    TOLERANCE,
    Divergence,
    Values,
    first_divergence,
    graph_values,
    in_words,
    listening,
)
from rsd.export.graph import checked
from rsd.export.half import to_half
from rsd.export.parity import GateError, Gates, Rung, check, compare, logits_of
from rsd.export.quantize import Harm, Int8Options, calibrated, described, harms, quantized, some, tries
from rsd.machine.errors import UserError
from rsd.run.records import Parity
from rsd.sources.images import LabelledImages

SAMPLE = 512
"""Test images on which the rung `stripped` is compared; files are compared on all."""
ROUNDED, FEW = 256, 4
"""Test images whose values are all looked at in fp16, and how many at once: all their values are held in memory."""
SEARCH_IMAGES = 256
"""Validation images that say which nodes int8 hurts most."""

Explain = Callable[[NDArray[np.uint8]], str]
"""Where a rung and the one below it part for these images, as a clause."""


def sample(images: int, most: int = SAMPLE) -> NDArray[np.integer]:
    """The indices of at most `most` of so many images, always the same."""
    return np.sort(np.random.default_rng(0).permutation(images)[:most])


class Ladder:
    """Compares the rungs with the trained student; a gate that is missed stops with the node where the two part.

    Args:
        expected: logits of the stripped student in PyTorch, float32 `[N, classes]`, of all test images.
        test: the test split, which judges and chooses nothing.
        threads: CPU threads of ONNX Runtime.

    Attributes:
        records: one record per rung climbed.
    """

    def __init__(self, expected: NDArray[np.float32], test: LabelledImages, gates: Gates, *, threads: int = 1) -> None:
        self.expected, self.test, self.gates, self.threads = expected, test, gates, threads
        self.records: list[Parity] = []
        self.everything = np.arange(len(test.images))

    def run(self, proto: onnx.ModelProto) -> NDArray[np.float32]:
        """The graph's logits of all test images, `[N, classes]`."""
        return logits_of(proto.SerializeToString(), self.test.images, threads=self.threads)

    def judge(
        self,
        rung: Rung,
        logits: NDArray[np.float32],
        explain: Explain | None = None,
        *,
        index: NDArray[np.integer] | None = None,
        reference: NDArray[np.float32] | None = None,
    ) -> Parity:
        """Compare the logits of a rung with the reference, hold them to the rung's gate and note the record.

        Args:
            explain: where the two part; None leaves it unsaid, and the GateError as it is.
            index: which test images these are; None: all.
            reference: what they are compared with; None: `expected`.

        Raises:
            UserError: the gate is missed.
        """
        index = self.everything if index is None else index
        try:
            return self._compare(rung, logits, index, self.expected[index] if reference is None else reference)
        except GateError as error:
            if explain is None:
                raise
            raise UserError(f"{error}; {explain(self.test.images[np.array(error.images)])}") from error

    def _compare(
        self, rung: Rung, logits: NDArray[np.float32], index: NDArray[np.integer], reference: NDArray[np.float32]
    ) -> Parity:
        try:
            record = compare(reference, logits, self.test.labels[index], near_tie=self.gates.near_tie(rung))
        except GateError as error:
            raise GateError(f"{rung}: {error}", index[error.images].tolist()) from error
        record["worst_images"] = index[record["worst_images"]].tolist()
        check(record, rung, self.gates)
        self.records.append(Parity(rung=rung, against="as trained" if rung == "stripped" else "stripped", **record))
        return self.records[-1]


class Conversion:
    """From the exported graph in fp32 to the file of a precision, every step held to the gate.

    Args:
        ladder: what judges.
        exported: the graph in fp32.
        named: which part of the PyTorch model a value of the graph comes from.
    """

    def __init__(self, ladder: Ladder, exported: onnx.ModelProto, named: Mapping[str, str]) -> None:
        self.ladder, self.exported, self.named = ladder, exported, named

    def explained(self, rung: Rung, proto: onnx.ModelProto) -> Explain:
        """Where `proto` parts from the graph in fp32."""

        def explain(images: NDArray[np.uint8]) -> str:
            values = graph_values(self.exported, images), graph_values(proto, images)
            return in_words(first_divergence(*values, TOLERANCE[rung]), proto, self.named)

        return explain

    def fp32(self) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
        """The graph as it is, and its logits."""
        logits = self.ladder.run(self.exported)
        self.ladder.judge("fp32", logits)
        return self.exported, logits

    def fp16(self) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
        """The graph in fp16 and its logits.

        On a CPU ONNX Runtime computes most of such a file in float32, so the file's own logits say nothing of the range
        of fp16. What a GPU would round is rounded on a sample: every value must be finite, and the logits are held to
        the same gate (`rsd.export.divergence.listening`).
        """
        proto = checked(to_half(self.exported))
        explain, index = self.explained("fp16", proto), sample(len(self.ladder.everything))[:ROUNDED]
        rounded = self.ladder.judge("fp16", self._rounded(proto, index), explain, index=index)
        self.ladder.records.remove(rounded)
        logits = self.ladder.run(proto)
        self.ladder.judge("fp16", logits, explain).rounded = rounded.model_dump(
            include={"images", "max_difference", "accuracy_delta_images"}
        )
        return proto, logits

    def int8(
        self, options: Int8Options, *, train: LabelledImages, validation: LabelledImages
    ) -> tuple[onnx.ModelProto, NDArray[np.float32], dict[str, Any]]:
        """The graph in int8, its logits, and the record of how it was made.

        Where the gate is missed on the validation images, the nodes that hurt most there go back to float, some more at
        each try. The first count that passes is judged on the test images; only where these refuse it do the tries go
        on, and the record lists the counts that they refused.

        Raises:
            UserError: the gate is missed with as few nodes in int8 as `options.least_share` allows.
        """
        ladder, threads = self.ladder, self.ladder.threads
        known = calibrated(self.exported, train.images, options, threads=threads)
        used = min(options.calibration_images, len(train.images))
        expected = logits_of(self.exported.SerializeToString(), validation.images, threads=threads)
        harmful: list[Harm] = []
        refused: list[int] = []
        for kept in [0, *tries(len(known.nodes), options.least_share)]:
            proto = checked(quantized(self.exported, known, in_float=[harm.node for harm in harmful[:kept]]))
            judge = validation
            try:
                logits = logits_of(proto.SerializeToString(), validation.images, threads=threads)
                check(compare(expected, logits, validation.labels), "int8", ladder.gates, split="validation")
                judge, logits = ladder.test, ladder.run(proto)
                ladder.judge("int8", logits)
                return proto, logits, described(known, used, harmful[:kept], refused)
            except GateError as error:
                missed = error
                if judge is ladder.test:
                    refused.append(kept)
            if not harmful:
                harmful = harms(self.exported, known, some(validation.images, SEARCH_IMAGES), threads=threads)
        most = ", ".join(f"'{harm.node}' ({harm.operator})" for harm in harmful[:3])
        where = self.explained("int8", proto)(judge.images[np.array(missed.images)])
        raise UserError(
            f"with {kept} of {len(known.nodes)} nodes kept in float {missed}; most is lost at {most}; {where}"
        ) from missed

    def _rounded(self, proto: onnx.ModelProto, index: NDArray[np.integer]) -> NDArray[np.float32]:
        """What the fp16 graph says with every value rounded to fp16: float32 `[len(index), classes]`.

        Raises:
            UserError: a value is not finite that is so in fp32.
        """
        values_of, logits = listening(proto), []
        for start in range(0, len(index), FEW):
            images = self.ladder.test.images[index[start : start + FEW]]
            values = values_of(images)
            if not all(np.isfinite(value).all() for value in values.values()):
                for number, one in zip(index[start : start + FEW], images[:, None], strict=True):
                    if name := _not_finite(graph_values(self.exported, one), values_of(one)):
                        where = in_words(Divergence(name, float("inf"), None, beyond=True), proto, self.named)
                        raise UserError(
                            f"the fp16 export leaves the range of fp16, which ends at 65504, for test image {number}: "
                            f"{where}; ship fp32"
                        )
            logits.append(values["logits"].astype(np.float32))
        return np.concatenate(logits)


def _not_finite(below: Values, above: Values) -> str | None:
    """The first value that is not finite where the same value below is."""
    broken = (
        name
        for name, value in above.items()
        if name in below and (np.isfinite(below[name]) & ~np.isfinite(value)).any()
    )
    return next(broken, None)
