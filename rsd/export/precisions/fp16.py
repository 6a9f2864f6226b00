"""Weights and computation in fp16; pixels, normalisation and logits stay in float32."""

import numpy as np
import onnx
from numpy.typing import NDArray

from rsd.export.divergence import Divergence, Values, graph_values, in_words, listening
from rsd.export.graph import checked
from rsd.export.half import to_half
from rsd.export.ladder import SAMPLE
from rsd.export.precisions.base import Converted, Exported, Precision
from rsd.machine.errors import UserError
from rsd.machine.options import Options
from rsd.run.records import Rounded
from rsd.sources.images import Images, sample_indices

ROUNDED, FEW = 256, 4
"""Test images whose values are all looked at, and how many at once: all their values are held in memory."""


class Fp16(Precision[Options]):
    section = Options
    limit = 0.2
    tolerance = 1e-2
    golden = 1e-2

    def graph(self, graph: onnx.ModelProto, options: Options, images: Images, *, runs_on: str) -> onnx.ModelProto:
        return to_half(graph)

    def convert(self, exported: Exported, options: Options) -> Converted:
        """On a CPU ONNX Runtime computes most of such a file in float32, so the file's own logits say nothing of the
        range of fp16. What a GPU would round is rounded on a sample: every value must be finite, and the logits are
        held to the same gate (`rsd.export.divergence.listening`).
        """
        graph = checked(to_half(exported.graph))
        ladder, explain = exported.ladder, exported.explained(graph, self.tolerance)
        index = sample_indices(len(ladder.test.images), SAMPLE)[:ROUNDED]
        rounded = ladder.judge(exported.gate, rounded_logits(exported, graph, index), explain, index=index)
        logits = ladder.run(graph)
        parity = ladder.judge(exported.gate, logits, explain)
        parity.rounded = Rounded(**rounded.model_dump(include=set(Rounded.model_fields)))
        return Converted(graph, logits, parity)


def rounded_logits(exported: Exported, graph: onnx.ModelProto, index: NDArray[np.integer]) -> NDArray[np.float32]:
    """The logits of an fp16 graph with every value rounded to fp16: float32 `[len(index), classes]`.

    Args:
        index: which test images.

    Raises:
        UserError: a value is not finite that is so in fp32.
    """
    values_of, logits = listening(graph), []
    for start in range(0, len(index), FEW):
        images = exported.ladder.test.images[index[start : start + FEW]]
        values = values_of(images)
        if not all(np.isfinite(value).all() for value in values.values()):
            for number, image in zip(index[start : start + FEW], images[:, None], strict=True):
                if name := _not_finite(graph_values(exported.graph, image), values_of(image)):
                    where = in_words(Divergence(name, float("inf"), None, beyond=True), graph, exported.parts)
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


PRECISION = Fp16()
