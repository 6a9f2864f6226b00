"""How far an exported graph strays from the trained model on real images; and the gates for it."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rsd.machine.errors import UserError
from rsd.run.records import Comparison

# Two classes closer than this share of the logit range are a near-tie: rounding alone may swap them.
NEAR_TIE = 0.01
WORST = 5
Z_95 = 1.96  # standard errors to either side that hold 95 % of a normal distribution
SMALL_SPLIT = 500  # fewer images than this: fp16's default of 0.2 points is less than one of them


class GateError(UserError):
    """A rung that strays too far; `images` are the indices of those that differ most."""

    def __init__(self, sentence: str, images: list[int]) -> None:
        super().__init__(sentence)
        self.images = images


def compare(
    reference_logits: NDArray[np.float32],
    logits: NDArray[np.float32],
    labels: NDArray[np.integer],
    *,
    near_tie: float = NEAR_TIE,
    what: str = "exported graph",
) -> Comparison:
    """Compare an exported graph, or any other rung of the ladder, with its reference.

    Args:
        reference_logits: `[N, classes]`, the trained model's in PyTorch.
        logits: `[N, classes]`, the exported graph's on the same images.
        labels: `[N]`, the true classes.
        near_tie: share of the logit range within which the reference's two classes are a near-tie.
        what: whose logits these are, in the sentence of an error.

    Raises:
        UserError: shapes differ, or the reference gives every image equal logits, as some untrained models
            do: then nothing would be proved.
        GateError: a logit is not finite.
    """
    if reference_logits.shape != logits.shape or len(labels) != len(logits):
        raise UserError(
            f"expected logits of one shape and a label for each image, found {reference_logits.shape}, "
            f"{logits.shape} and {len(labels)} labels; compare both on the same images"
        )
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(broken):
        raise GateError(
            f"expected finite logits of the {what}, found NaN or infinity for {len(broken)} of "
            f"{len(logits)} images (first: {broken[:WORST].tolist()}); if this is fp16, its range of 65504 "
            "is too small for this model: ship fp32",
            broken[:WORST].tolist(),
        )
    reference, compared = reference_logits.astype(np.float64), logits.astype(np.float64)
    logit_range = float(np.ptp(reference))
    if not logit_range > 0:
        raise UserError(
            "expected reference logits that differ between classes, found all of them equal or not finite; "
            "compare a trained model"
        )
    difference = np.abs(compared - reference)
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(compared, axis=1)
    cosine = (reference * compared).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    before, after = reference.argmax(axis=1), compared.argmax(axis=1)
    rows = np.arange(len(labels))
    margin = reference[rows, before] - reference[rows, after]  # 0 where both agree
    right_before, right_after = int((before == labels).sum()), int((after == labels).sum())
    changes = (after == labels).astype(int) - (before == labels).astype(int)
    # A normal interval of paired differences says nothing where none or all of them are the same.
    spread = float(changes.std(ddof=1)) if len(changes) > 1 else 0.0
    return Comparison(
        images=len(labels),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        logit_range=logit_range,
        max_difference_share=float(difference.max()) / logit_range,
        min_cosine=float(cosine.min()),
        top1_agreement=float((before == after).mean()),
        disagreements=int((before != after).sum()),
        disagreements_beyond_near_ties=int(((before != after) & (margin > near_tie * logit_range)).sum()),
        near_tie_share=near_tie,
        reference_accuracy=right_before / len(labels),
        accuracy=right_after / len(labels),
        accuracy_delta_points=100 * (right_after - right_before) / len(labels),
        accuracy_delta_images=right_after - right_before,
        accuracy_delta_margin=100 * Z_95 * spread / math.sqrt(len(labels)) if spread else None,
        worst_images=np.argsort(-difference.max(axis=1), kind="stable")[:WORST].tolist(),
    )


@dataclass(frozen=True)
class Gate(ABC):
    """How far a rung of the ladder may stray before the pipeline stops."""

    rung: str
    """`stripped`, or a precision; an engine is held to the gate of its precision."""
    limit: float
    key: ClassVar[str]
    """The option is `gates.RUNG_KEY`."""
    near_tie: ClassVar[float] = NEAR_TIE

    @abstractmethod
    def check(self, record: Comparison, *, what: str | None = None, split: str = "test") -> None:
        """Hold a record of `compare` against the gate.

        Args:
            record: with this gate's `near_tie`.
            what: the engine's name in the sentence, such as "fp16 engine"; the export of the rung if None.
            split: whose images these are, in the sentence.

        Raises:
            GateError: the gate is missed; the sentence names the rung, value, limit and worst images.
        """

    def _what(self, what: str | None) -> str:
        return what or ("stripped student" if self.rung == "stripped" else f"{self.rung} export")

    def _raise(self) -> str:
        return f"raise `gates.{self.rung}_{self.key}` of the export"


class AccuracyDelta(Gate):
    """Accuracy that may be lost, in points; 0 allows no image. Where this is less than one whole test image, one may be
    lost, and of fewer than 500 test images one in 200 (rounded up)."""

    key = "accuracy_delta"

    def images_to_lose(self, images: int) -> int:
        """How many of `images` test images may be wrong that the reference gets right, net."""
        if self.limit == 0:
            return 0
        least = math.ceil(images / 200) if images < SMALL_SPLIT else 1
        return math.floor(self.limit / 100 * images + 1e-9) or least

    def check(self, record: Comparison, *, what: str | None = None, split: str = "test") -> None:
        lost, allowed = -record.accuracy_delta_images, self.images_to_lose(record.images)
        if lost > allowed:
            raise GateError(
                f"the {self._what(what)} loses {lost} of {record.images} {split} images "
                f"({-record.accuracy_delta_points:.2f} points of accuracy), and at most {allowed} may be lost "
                f"({_worst(record, split)}); ship fp32, or {self._raise()}",
                record.worst_images,
            )


class MaxDifference(Gate):
    """Largest absolute logit difference, as a share of the logit range. Where the first class differs, its two
    candidates must be nearer to each other than twice this."""

    key = "max_difference"

    @property
    def near_tie(self) -> float:  # type: ignore[override]
        """Share of the logit range within which two classes are a near-tie."""
        return 2 * self.limit

    def check(self, record: Comparison, *, what: str | None = None, split: str = "test") -> None:
        stripped = self.rung == "stripped"
        reference = "its ONNX file" if what else "the student as it was trained" if stripped else "PyTorch"
        advice = self._raise() if stripped else f"try another opset, or {self._raise()}"
        if record.max_difference_share > self.limit:
            raise GateError(
                f"the {self._what(what)} differs from {reference} by {record.max_difference_share:.2e} of the logit "
                f"range, and at most {self.limit:.2e} is allowed ({_worst(record, split)}); {advice}",
                record.worst_images,
            )
        if swapped := record.disagreements_beyond_near_ties:
            raise GateError(
                f"the {self._what(what)} gives {swapped} of {record.images} {split} images another first class than "
                f"{reference} where the two classes are further apart than {self.near_tie:.2e} of the logit range "
                f"({_worst(record, split)}); {advice}",
                record.worst_images,
            )


def _worst(record: Comparison, split: str) -> str:
    return f"worst {split} images: {', '.join(map(str, record.worst_images))}"
