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
"""Test images on which the rungs below a file's own are compared; its own is compared on all."""
ROUNDED, FEW = 256, 4
"""Test images whose values are all looked at in fp16, and how many at once: all their values are held in memory."""
SEARCH_IMAGES = 256
"""Validation images that say which nodes int8 hurts most."""


class Ladder:
    """Climbs from rung to rung; a gate that is missed stops with the node where the two part.

    Args:
        test: the test split, which judges and chooses nothing.
        expected: logits `[N, classes]` of the stripped student in PyTorch on the test split.
        threads: CPU threads of ONNX Runtime.

    Attributes:
        records: one record per rung climbed.
        logits: `[N, classes]` of the last rung that was compared on all test images.
    """

    def __init__(self, test: LabelledImages, expected: NDArray[np.float32], gates: Gates, *, threads: int = 1) -> None:
        self.test, self.expected, self.gates, self.threads = test, expected, gates, threads
        self.records: list[Parity] = []
        self.logits: NDArray[np.float32] | None = None
        self.sample = np.sort(np.random.default_rng(0).permutation(len(test.images))[:SAMPLE])
        self.everything = np.arange(len(test.images))

    def fp16(self, graph: onnx.ModelProto, named: Mapping[str, str]) -> onnx.ModelProto:
        """The graph in fp16, against PyTorch.

        On a CPU ONNX Runtime computes most of such a file in float32, so the file's own logits say nothing of the range
        of fp16. What a GPU would round is rounded on a sample: every value must be finite, and the logits are held to
        the same gate (`rsd.export.divergence.listening`).

        Args:
            graph: in fp32, as `trace` made it.
            named: the part of the PyTorch model that each value comes from, see `rsd.export.divergence.parts`.
        """
        proto = checked(to_half(graph))
        explain, index = _explained("fp16", graph, proto, named), self.sample[:ROUNDED]
        self.judge("fp16", self._rounded(graph, proto, named, index), index, explain)
        rounded = self.records.pop()
        self.judge("fp16", self.run(proto, self.everything), self.everything, explain)
        self.records[-1].rounded = rounded.model_dump(include={"images", "max_difference", "accuracy_delta_images"})
        return proto

    def int8(
        self,
        graph: onnx.ModelProto,
        named: Mapping[str, str],
        options: Int8Options,
        *,
        train: LabelledImages,
        validation: LabelledImages,
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The graph in int8, against PyTorch, and the record of how it was made.

        Where the gate is missed on the validation images, the nodes that hurt most there go back to float, some more at
        each try. The first count that passes is judged on the test images; only where these refuse it do the tries go
        on, and the record lists the counts that they refused.

        Args:
            graph, named: as in `fp16`.

        Raises:
            UserError: the gate is missed with as few nodes in int8 as `options.least_share` allows.
        """
        known = calibrated(graph, train.images, options, threads=self.threads)
        used = min(options.calibration_images, len(train.images))
        expected = logits_of(graph.SerializeToString(), validation.images, threads=self.threads)
        harmful: list[Harm] = []
        refused: list[int] = []
        for kept in [0, *tries(len(known.nodes), options.least_share)]:
            proto = checked(quantized(graph, known, in_float=[harm.node for harm in harmful[:kept]]))
            judge = validation
            try:
                told = logits_of(proto.SerializeToString(), validation.images, threads=self.threads)
                check(compare(expected, told, validation.labels), "int8", self.gates, split="validation")
                judge = self.test
                self._compare("int8", self.run(proto, self.everything), self.everything, self.expected)
                return proto, described(known, used, harmful[:kept], refused)
            except GateError as error:
                missed = error
                if judge is self.test:
                    refused.append(kept)
            if not harmful:
                harmful = harms(graph, known, some(validation.images, SEARCH_IMAGES), threads=self.threads)
        most = ", ".join(f"'{harm.node}' ({harm.operator})" for harm in harmful[:3])
        where = _explained("int8", graph, proto, named)(judge.images[np.array(missed.images)])
        raise UserError(
            f"with {kept} of {len(known.nodes)} nodes kept in float {missed}; most is lost at {most}; {where}"
        ) from missed

    def _rounded(
        self, graph: onnx.ModelProto, proto: onnx.ModelProto, named: Mapping[str, str], index: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """What the fp16 graph says with every value rounded to fp16: float32 `[len(index), classes]`.

        Raises:
            UserError: a value is not finite that is so in fp32.
        """
        told, logits = listening(proto), []
        for start in range(0, len(index), FEW):
            images = self.test.images[index[start : start + FEW]]
            values = told(images)
            if not all(np.isfinite(value).all() for value in values.values()):
                for number, one in zip(index[start : start + FEW], images[:, None], strict=True):
                    if name := _not_finite(graph_values(graph, one), told(one)):
                        where = in_words(Divergence(name, float("inf"), None, beyond=True), proto, named)
                        raise UserError(
                            f"the fp16 export leaves the range of fp16, which ends at 65504, for test image {number}: "
                            f"{where}; ship fp32"
                        )
            logits.append(values["logits"].astype(np.float32))
        return np.concatenate(logits)

    def run(self, proto: onnx.ModelProto, index: NDArray[np.integer]) -> NDArray[np.float32]:
        """The logits of a graph for test images, `[len(index), classes]`."""
        images = self.test.images if index is self.everything else self.test.images[index]
        return logits_of(proto.SerializeToString(), images, threads=self.threads)

    def judge(
        self,
        rung: Rung,
        found: NDArray[np.float32],
        index: NDArray[np.integer],
        explain: Callable[[NDArray[np.uint8]], str],
        *,
        reference: NDArray[np.float32] | None = None,
    ) -> None:
        """Hold the logits of a rung to its gate.

        Args:
            found: `[len(index), classes]`.
            index: of the test images.
            explain: where the two part, for the images that differ most.
            reference: the logits below, if not those of PyTorch.

        Raises:
            UserError: the gate is missed; the sentence says where the two part.
        """
        try:
            self._compare(rung, found, index, self.expected[index] if reference is None else reference)
        except GateError as error:
            raise UserError(f"{error}; {explain(self.test.images[np.array(error.images)])}") from error

    def _compare(
        self, rung: Rung, found: NDArray[np.float32], index: NDArray[np.integer], reference: NDArray[np.float32]
    ) -> None:
        try:
            record = compare(reference, found, self.test.labels[index], near_tie=self.gates.near_tie(rung))
        except GateError as error:
            raise GateError(f"{rung}: {error}", index[error.images].tolist()) from error
        record["worst_images"] = index[record["worst_images"]].tolist()
        check(record, rung, self.gates)
        against = "as trained" if rung == "stripped" else "stripped"
        self.records.append(Parity(rung=rung, against=against, **record))
        self.logits = found if index is self.everything else None


def _not_finite(below: Values, found: Values) -> str | None:
    """The first value that is not finite where the same value below is."""
    broken = (
        name
        for name, value in found.items()
        if name in below and (np.isfinite(below[name]) & ~np.isfinite(value)).any()
    )
    return next(broken, None)


def _explained(
    rung: Rung, graph: onnx.ModelProto, proto: onnx.ModelProto, named: Mapping[str, str]
) -> Callable[[NDArray[np.uint8]], str]:
    return lambda images: parting(rung, graph_values(graph, images), proto, named, images)


def parting(
    rung: Rung, below: Values, proto: onnx.ModelProto, named: Mapping[str, str], images: NDArray[np.uint8]
) -> str:
    """Where a graph parts from the values below it, in words.

    Args:
        below: the same values as the rung below has them.
        named: the part of the PyTorch model that each value comes from.
        images: those that differ most, uint8 `[N, H, W, C]`.
    """
    return in_words(first_divergence(below, graph_values(proto, images), TOLERANCE[rung]), proto, named)
