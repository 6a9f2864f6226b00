"""The ladder from a trained student to a file: each rung compared on real test images with what lies below it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from rsd.export.divergence import (
    TOLERANCE,
    Divergence,
    Values,
    first_divergence,
    graph_values,
    in_words,
    listening,
    module_values,
    parts,
    torch_values,
)
from rsd.export.half import to_half
from rsd.export.onnx import Traced, checked
from rsd.export.parity import GateError, Gates, Rung, check, compare, logits_of
from rsd.export.quantize import Harm, Int8Options, calibrated, described, harms, quantized, some, tries
from rsd.export.strip import AsTrained
from rsd.machine.errors import UserError
from rsd.models.timm_model import PixelNormalize, predict
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
        model: the stripped student, in eval mode.
        test: the test split, which judges and chooses nothing.
        threads: CPU threads of ONNX Runtime.

    Attributes:
        records: one parity record per rung climbed, see `rsd.export.parity.compare`.
        logits: `[N, classes]` of the last rung that was compared on all test images.
    """

    def __init__(
        self, model: nn.Module, normalize: PixelNormalize, test: LabelledImages, gates: Gates, *, threads: int = 1
    ) -> None:
        self.model, self.normalize, self.test, self.gates, self.threads = model, normalize, test, gates, threads
        self.expected: NDArray[np.float32] = predict(model, normalize, test.images, batch_size=256).logits.numpy()
        self.records: list[dict[str, Any]] = []
        self.logits: NDArray[np.float32] | None = None
        self.sample = np.sort(np.random.default_rng(0).permutation(len(test.images))[:SAMPLE])
        self.everything = np.arange(len(test.images))

    def stripped(self, trained: AsTrained) -> None:
        """The student out of its training-only module, against the one within it."""
        # The same batches for both: a kernel may take another path for another size.
        pieces = [self.sample[start : start + 64] for start in range(0, len(self.sample), 64)]
        raw = [torch.from_numpy(np.array(self.test.images[piece])) for piece in pieces]
        within = torch.cat([trained(images) for images in raw]).numpy()
        with torch.no_grad():
            without = torch.cat([self.model(self.normalize(images)).float() for images in raw]).numpy()

        def explain(images: NDArray[np.uint8]) -> str:
            pixels = torch.from_numpy(images)
            before = module_values(trained.student, lambda: trained(pixels))
            after = module_values(self.model, lambda: self.model(self.normalize(pixels)))
            return in_words(first_divergence(before, after, TOLERANCE["stripped"]))

        self._judge("stripped", without, self.sample, explain, reference=within)

    def fp32(self, traced: Traced, *, whole: bool) -> None:
        """The graph against PyTorch; on all test images if `whole`."""
        index = self.everything if whole else self.sample
        self._judge(
            "fp32",
            self._run(traced.proto, index),
            index,
            lambda images: _parting("fp32", torch_values(traced.program, images), traced, traced.proto, images),
        )

    def fp16(self, traced: Traced) -> onnx.ModelProto:
        """The graph in fp16, against PyTorch.

        On a CPU ONNX Runtime computes most of such a file in float32, so the file's own logits say nothing of the range
        of fp16. What a GPU would round is rounded on a sample: every value must be finite, and the logits are held to
        the same gate (`rsd.export.divergence.listening`).
        """
        proto = checked(to_half(traced.proto))
        explain, index = _explained("fp16", traced, proto), self.sample[:ROUNDED]
        self._judge("fp16", self._rounded(traced, proto, index), index, explain)
        rounded = self.records.pop()
        self._judge("fp16", self._run(proto, self.everything), self.everything, explain)
        self.records[-1]["rounded"] = {
            key: rounded[key] for key in ("images", "max_difference", "accuracy_delta_images")
        }
        return proto

    def int8(
        self, traced: Traced, options: Int8Options, *, train: LabelledImages, validation: LabelledImages
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The graph in int8, against PyTorch, and the record of how it was made.

        Where the gate is missed on the validation images, the nodes that hurt most there go back to float, some more at
        each try. The first count that passes is judged on the test images; only where these refuse it do the tries go
        on, and the record lists the counts that they refused.

        Raises:
            UserError: the gate is missed with as few nodes in int8 as `options.least_share` allows.
        """
        known = calibrated(traced.proto, train.images, options, threads=self.threads)
        used = min(options.calibration_images, len(train.images))
        expected = predict(self.model, self.normalize, validation.images, batch_size=256).logits.numpy()
        harmful: list[Harm] = []
        refused: list[int] = []
        for kept in [0, *tries(len(known.nodes), options.least_share)]:
            proto = checked(quantized(traced.proto, known, in_float=[harm.node for harm in harmful[:kept]]))
            judge = validation
            try:
                told = logits_of(proto.SerializeToString(), validation.images, threads=self.threads)
                check(compare(expected, told, validation.labels), "int8", self.gates, split="validation")
                judge = self.test
                self._compare("int8", self._run(proto, self.everything), self.everything, self.expected)
                return proto, described(known, used, harmful[:kept], refused)
            except GateError as error:
                missed = error
                if judge is self.test:
                    refused.append(kept)
            if not harmful:
                harmful = harms(traced.proto, known, some(validation.images, SEARCH_IMAGES), threads=self.threads)
        most = ", ".join(f"'{harm.node}' ({harm.operator})" for harm in harmful[:3])
        where = _explained("int8", traced, proto)(judge.images[np.array(missed.images)])
        raise UserError(
            f"with {kept} of {len(known.nodes)} nodes kept in float {missed}; most is lost at {most}; {where}"
        ) from missed

    def _rounded(self, traced: Traced, proto: onnx.ModelProto, index: NDArray[np.integer]) -> NDArray[np.float32]:
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
                    if name := _not_finite(graph_values(traced.proto, one), told(one)):
                        where = in_words(
                            Divergence(name, float("inf"), None, beyond=True), proto, parts(traced.program)
                        )
                        raise UserError(
                            f"the fp16 export leaves the range of fp16, which ends at 65504, for test image {number}: "
                            f"{where}; ship fp32"
                        )
            logits.append(values["logits"].astype(np.float32))
        return np.concatenate(logits)

    def _run(self, proto: onnx.ModelProto, index: NDArray[np.integer]) -> NDArray[np.float32]:
        images = self.test.images if index is self.everything else self.test.images[index]
        return logits_of(proto.SerializeToString(), images, threads=self.threads)

    def _judge(
        self,
        rung: Rung,
        found: NDArray[np.float32],
        index: NDArray[np.integer],
        explain: Callable[[NDArray[np.uint8]], str],
        *,
        reference: NDArray[np.float32] | None = None,
    ) -> None:
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
        self.records.append({"rung": rung, "against": "as trained" if rung == "stripped" else "stripped", **record})
        self.logits = found if index is self.everything else None


def _not_finite(below: Values, found: Values) -> str | None:
    """The first value that is not finite where the same value below is."""
    broken = (
        name
        for name, value in found.items()
        if name in below and (np.isfinite(below[name]) & ~np.isfinite(value)).any()
    )
    return next(broken, None)


def _explained(rung: Rung, traced: Traced, proto: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], str]:
    return lambda images: _parting(rung, graph_values(traced.proto, images), traced, proto, images)


def _parting(rung: Rung, below: Values, traced: Traced, proto: onnx.ModelProto, images: NDArray[np.uint8]) -> str:
    found = first_divergence(below, graph_values(proto, images), TOLERANCE[rung])
    return in_words(found, proto, parts(traced.program))
