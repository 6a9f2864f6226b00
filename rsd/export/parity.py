"""Whether an exported graph still says what the trained model says, on real images; and the gates for it."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import Field

from rsd.data.images import Images
from rsd.errors import UserError
from rsd.options import Options

Precision = Literal["fp32", "fp16"]

# Two classes closer than this share of the logit range are a near-tie: rounding alone may swap them.
NEAR_TIE = 0.01
WORST = 5


class Gates(Options):
    """How far an exported graph may stray before the pipeline stops."""

    fp32_max_difference: float = Field(default=1e-4, gt=0)
    """Largest absolute logit difference from PyTorch, as a share of the logit range."""
    fp16_accuracy_delta: float = Field(default=0.2, ge=0)
    """Accuracy that fp16 may lose, in points. Where this is less than one whole test image, one image in
    200 (rounded up) may be lost instead."""

    def images_to_lose(self, images: int) -> int:
        """How many of `images` test images fp16 may get wrong that the reference gets right, net."""
        allowed = math.floor(self.fp16_accuracy_delta / 100 * images + 1e-9)
        return allowed or math.ceil(images / 200)


def logits_of(path: Path, images: Images, *, batch: int = 128, threads: int = 1) -> NDArray[np.float32]:
    """Run an exported graph with ONNX Runtime on the CPU: uint8 `[N, H, W, C]` -> float32 `[N, classes]`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; fp16 graphs on a CPU warn of every cast
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [
        session.run(["logits"], {"image": np.asarray(images[start : start + batch])})[0]
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts)


def compare(
    reference_logits: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.integer]
) -> dict[str, Any]:
    """Compare an exported graph with its reference.

    Args:
        reference_logits: `[N, classes]`, the trained model's in PyTorch.
        logits: `[N, classes]`, the exported graph's on the same images.
        labels: `[N]`, the true classes.

    Returns:
        Logit differences (`max_`, `mean_` and `max_difference_share`, the share of `logit_range`), the
        least cosine of an image's two logit vectors, the share of images with the same first class, how
        many differ and how many of these are no near-ties, both accuracies (shares, 0 to 1), what the
        export gains or loses (points and images) and the indices of the images that differ most.

    Raises:
        UserError: shapes differ, a logit is not finite, or the reference gives every image equal logits,
            as some untrained models do: then nothing would be proved.
    """
    if reference_logits.shape != logits.shape or len(labels) != len(logits):
        raise UserError(
            f"expected logits of one shape and a label for each image, found {reference_logits.shape}, "
            f"{logits.shape} and {len(labels)} labels; compare both on the same images"
        )
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(broken):
        raise UserError(
            f"expected finite logits of the exported graph, found NaN or infinity for {len(broken)} of "
            f"{len(logits)} images (first: {broken[:WORST].tolist()}); if this is fp16, its range of 65504 "
            "is too small for this model: ship fp32"
        )
    reference, found = reference_logits.astype(np.float64), logits.astype(np.float64)
    logit_range = float(np.ptp(reference))
    if not logit_range > 0:
        raise UserError(
            "expected reference logits that differ between classes, found all of them equal or not finite; "
            "compare a trained model"
        )
    difference = np.abs(found - reference)
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (reference * found).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    before, after = reference.argmax(axis=1), found.argmax(axis=1)
    rows = np.arange(len(labels))
    margin = reference[rows, before] - reference[rows, after]  # 0 where both agree
    right_before, right_after = int((before == labels).sum()), int((after == labels).sum())
    return {
        "images": len(labels),
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "logit_range": logit_range,
        "max_difference_share": float(difference.max()) / logit_range,
        "min_cosine": float(cosine.min()),
        "top1_agreement": float((before == after).mean()),
        "disagreements": int((before != after).sum()),
        "disagreements_beyond_near_ties": int((margin > NEAR_TIE * logit_range).sum()),
        "reference_accuracy": right_before / len(labels),
        "accuracy": right_after / len(labels),
        "accuracy_delta_points": 100 * (right_after - right_before) / len(labels),
        "accuracy_delta_images": right_after - right_before,
        "worst_images": np.argsort(-difference.max(axis=1), kind="stable")[:WORST].tolist(),
    }


def check(record: dict[str, Any], precision: Precision, gates: Gates) -> None:
    """Hold a record of `compare` against the gate of its precision.

    Raises:
        UserError: the gate is missed; the sentence names the rung, value, limit and worst images.
    """
    worst = f"worst test images: {', '.join(map(str, record['worst_images']))}"
    if precision == "fp32":
        share = record["max_difference_share"]
        if share > gates.fp32_max_difference:
            raise UserError(
                f"the fp32 export differs from PyTorch by {share:.2e} of the logit range, and at most "
                f"{gates.fp32_max_difference:.2e} is allowed ({worst}); try another opset, or raise "
                "`gates.fp32_max_difference` of the export"
            )
        return
    lost, allowed = -record["accuracy_delta_images"], gates.images_to_lose(record["images"])
    if lost > allowed:
        raise UserError(
            f"the fp16 export loses {lost} of {record['images']} test images "
            f"({-record['accuracy_delta_points']:.2f} points of accuracy), and at most {allowed} may be lost "
            f"({worst}); ship fp32, or raise `gates.fp16_accuracy_delta` of the export"
        )
