"""Convolutions and matrix products in int8, calibrated; the nodes that hurt most stay in float where the gate fails."""

import numpy as np
import onnx

from rsd.export.graph import checked
from rsd.export.int8_file import chosen
from rsd.export.parity import GateError, compare
from rsd.export.precisions.base import Converted, Exported, Precision
from rsd.export.quantize import Int8Options, harms, quantized, tries
from rsd.export.run_graph import logits_in
from rsd.machine.errors import UserError
from rsd.run.records import Details, Harm
from rsd.sources.images import Images, sample_indices

SEARCH_IMAGES = 256
"""Validation images that say which nodes int8 hurts most."""


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
    refused_by_test: list[int]
    """Smaller counts of such nodes that passed on the validation images and not on the test images."""


class Int8(Precision[Int8Options]):
    section = Int8Options
    limit = 1.0
    tolerance = 1e-1
    golden = 5e-2
    by_runtime = True
    largest_opset = (20, "ONNX Runtime does not load an int8 transformer above that")
    # From 21 on QuantizeLinear names its type; ONNX Runtime 1.32 keeps that name where it turns the int8 of a
    # transformer into uint8, and then refuses its own graph.

    def graph(
        self, graph: onnx.ModelProto, options: Int8Options, images: Images, *, runs_on: str = "onnxruntime"
    ) -> onnx.ModelProto:
        return quantized(graph, chosen(graph, images, options, runs_on=runs_on))

    def convert(self, exported: Exported, options: Int8Options) -> Converted:
        """Where the gate is missed on the validation images, the nodes that hurt most there go back to float, some more
        at each try. The first count that passes is judged on the test images; only where these refuse it do the tries
        go on.
        """
        ladder, runs_on, threads = exported.ladder, exported.ladder.runs_on, exported.ladder.threads
        train, validation = exported.split("train"), exported.split("validation")
        ranges = chosen(exported.graph, train.images, options, runs_on=runs_on, threads=threads)
        expected = logits_in(runs_on, exported.graph, validation.images, threads=threads)
        harmful: list[Harm] = []
        refused: list[int] = []
        for count in [0, *tries(len(ranges.nodes), options.least_share)]:
            in_float = harmful[:count]
            graph = checked(quantized(exported.graph, ranges, in_float=[harm.node for harm in in_float]))
            judge = validation
            try:
                logits = logits_in(runs_on, graph, validation.images, threads=threads)
                exported.gate.check(compare(expected, logits, validation.labels), split="validation")
                judge, logits = ladder.test, ladder.run(graph)
                parity = ladder.judge(exported.gate, logits)
            except GateError as error:
                missed = error
                if judge is ladder.test:
                    refused.append(count)
            else:
                details = Int8Details(
                    form=ranges.form.name,
                    **options.model_dump(exclude={"calibration_images"}),
                    calibration_images=min(options.calibration_images, len(train.images)),
                    nodes=len(ranges.nodes),
                    in_float=in_float,
                    refused_by_test=refused,
                )
                note = f"kept in float: {', '.join(harm.node for harm in in_float)}" if in_float else ""
                return Converted(graph, logits, parity, details, note)
            if not harmful:
                index = sample_indices(len(validation.images), SEARCH_IMAGES)
                images = validation.images[index]
                harmful = harms(exported.graph, ranges, images, runs_on=runs_on, threads=threads)
        most = ", ".join(f"'{harm.node}' ({harm.operator})" for harm in harmful[:3])
        where = exported.explained(graph, self.tolerance)(judge.images[np.array(missed.images)])
        raise UserError(
            f"with {count} of {len(ranges.nodes)} nodes kept in float {missed}; most is lost at {most}; {where}"
        ) from missed


PRECISION = Int8()
