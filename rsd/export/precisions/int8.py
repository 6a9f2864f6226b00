"""int8, calibrated; where the gate fails other calibrations are tried, then the nodes that hurt most stay in float."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from rsd.export.graph import checked
from rsd.export.int8_file import chosen
from rsd.export.parity import GateError, compare
from rsd.export.precisions.base import Converted, Exported, Precision
from rsd.export.quantize import Calibrated, Int8Options, harms, quantized, tries
from rsd.export.run_graph import logits_in
from rsd.machine.errors import UserError
from rsd.run.records import Details, Harm
from rsd.sources.images import Images, sample_indices

CALIBRATIONS = ("min_max", "percentile", "entropy")
SEARCH_IMAGES = 256  # validation images that say which nodes int8 hurts most


class Int8Details(Details):
    """How an int8 file was made."""

    form: str
    """Where its Q/DQ pairs are; see `rsd.export.placement`."""
    calibration: str
    percentile: float
    least_share: float
    reduce_range: bool
    calibration_images: int
    """As many as there were, and at most the option."""
    refused_by_test: list[str]
    """Attempts that passed on the validation images and not on the test images."""


class Int8(Precision[Int8Options]):
    section = Int8Options
    limit = 1.0
    tolerance = 1e-1
    golden = 5e-2
    by_runtime = True
    largest_opset = (20, "ONNX Runtime does not load an int8 transformer above that")
    # From 21 on QuantizeLinear names its type; ONNX Runtime 1.32 keeps that name where it turns the int8 of a
    # transformer into uint8, and then refuses its own graph.

    def graph(self, graph: onnx.ModelProto, options: Int8Options, images: Images, *, runs_on: str) -> onnx.ModelProto:
        return quantized(graph, chosen(graph, images, options, runs_on=runs_on))

    def convert(self, exported: Exported, options: Int8Options) -> Converted:
        """Where the gate is missed on the validation images, the other calibrations are tried. With the best of these
        the nodes that hurt most go back to float, some more at each try. The first attempt that passes is judged on the
        test images; only where these refuse it do the attempts go on.
        """
        attempts = _Attempts(exported)
        best: Missed | None = None
        for calibration in dict.fromkeys([options.calibration, *CALIBRATIONS]):
            ranges = attempts.calibrated(options.model_copy(update={"calibration": calibration}))
            outcome = attempts.judge(ranges)
            if isinstance(outcome, Converted):
                return outcome
            best = outcome if best is None or outcome.accuracy > best.accuracy else best
        assert best is not None
        missed, harmful = best, attempts.harms(best.ranges)
        for count in tries(len(best.ranges.nodes), options.least_share):
            outcome = attempts.judge(best.ranges, harmful[:count])
            if isinstance(outcome, Converted):
                return outcome
            missed = outcome
        most = ", ".join(f"'{harm.node}' ({harm.operator})" for harm in harmful[:3])
        where = exported.explained(missed.graph, self.tolerance)(missed.images)
        raise UserError(
            f"with {missed.in_float} of {len(best.ranges.nodes)} nodes kept in float {missed.error}; most is lost at "
            f"{most}; {where}"
        ) from missed.error


class Missed(NamedTuple):
    """An attempt that a gate refused."""

    error: GateError
    images: NDArray[np.uint8]
    """Those that differ most."""
    accuracy: float
    """On the validation images, 0 to 1; -1 if the logits were not finite."""
    ranges: Calibrated
    graph: onnx.ModelProto
    in_float: int


class _Attempts:
    """Makes int8 files of one graph, and holds each to the gate: first on validation images, then on test images."""

    def __init__(self, exported: Exported) -> None:
        self.exported = exported
        self.runs_on, self.threads = exported.ladder.runs_on, exported.ladder.threads
        self.train, self.validation = exported.split("train"), exported.split("validation")
        self.expected = self._run(exported.graph)
        self.refused_by_test: list[str] = []

    def calibrated(self, options: Int8Options) -> Calibrated:
        return chosen(self.exported.graph, self.train.images, options, runs_on=self.runs_on, threads=self.threads)

    def harms(self, ranges: Calibrated) -> list[Harm]:
        images = self.validation.images[sample_indices(len(self.validation.images), SEARCH_IMAGES)]
        return harms(self.exported.graph, ranges, images, runs_on=self.runs_on, threads=self.threads)

    def judge(self, ranges: Calibrated, in_float: Sequence[Harm] = ()) -> Converted | Missed:
        exported, ladder, gate = self.exported, self.exported.ladder, self.exported.gate
        graph = checked(quantized(exported.graph, ranges, in_float=[harm.node for harm in in_float]))
        accuracy, judge = -1.0, self.validation
        try:
            compared = compare(self.expected, self._run(graph), self.validation.labels)
            accuracy = compared.accuracy
            gate.check(compared, split="validation")
            judge, logits = ladder.test, ladder.run(graph)
            parity = ladder.judge(gate, logits)
        except GateError as error:
            if judge is ladder.test:
                self.refused_by_test.append(f"{ranges.options.calibration}, {len(in_float)} in float")
            return Missed(error, judge.images[np.array(error.images)], accuracy, ranges, graph, len(in_float))
        details = Int8Details(
            form=ranges.form.name,
            **ranges.options.model_dump(exclude={"calibration_images"}),
            calibration_images=min(ranges.options.calibration_images, len(self.train.images)),
            nodes=len(ranges.nodes),
            in_float=[*in_float],
            refused_by_test=self.refused_by_test,
        )
        note = f"kept in float: {', '.join(harm.node for harm in in_float)}" if in_float else ""
        return Converted(graph, logits, parity, details, note)

    def _run(self, graph: onnx.ModelProto) -> NDArray[np.float32]:
        return logits_in(self.runs_on, graph, self.validation.images, threads=self.threads)


PRECISION = Int8()
