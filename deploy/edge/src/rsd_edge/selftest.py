"""The self-test of a release: its golden pairs and its latency on this device."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsd_edge import child
from rsd_edge.bundle import manifest_of
from rsd_edge.errors import EdgeError
from rsd_edge.model import Model
from rsd_edge.records import Golden, short

SAMPLES = 1000
"""Inferences that are timed; ten of them lie above the 99th percentile."""
WARM_UP = 50
STEP = 120
"""Seconds for each step: to open a model, or to infer once."""
LONGEST = 3600
"""Seconds for all steps together."""
MAX_GOLDEN = 1000
"""Golden images of a bundle."""


@dataclass(frozen=True)
class Latency:
    """Latency of one image at a time, in milliseconds."""

    samples: int
    p50: float
    p90: float
    p99: float


def self_test(folder: Path, *, check_p99: bool = True) -> dict[str, Any]:
    """Run every model of a release on its golden pairs, and time the one that is served, in a child process.

    Args:
        folder: of the release.
        check_p99: whether the release must keep its limit of p99.

    Returns:
        `precisions`: for each precision, its `provider` and the largest `difference` of a logit. `pixels`: the
        largest difference of a pixel of the golden files. `p99_ms` of the first precision, None if the bundle has no
        limit.

    Raises:
        EdgeError: a pixel, a logit or p99 is beyond what the bundle allows, the model asks for more memory or time
            than there is, or it ends the runtime.
    """
    return child.run(lambda: _self_test(folder, check_p99), folder.name, seconds=STEP)


def _self_test(folder: Path, check_p99: bool) -> dict[str, Any]:
    manifest = manifest_of(folder)
    golden, end = manifest.golden, time.monotonic() + LONGEST

    def start_step() -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise EdgeError(
                f"expected the self-test of {folder.name} to end within {LONGEST} seconds, found it still at work; "
                "use a faster model, or fewer golden images"
            )
        signal.setitimer(signal.ITIMER_REAL, min(STEP, left))

    images = _array(folder / golden.images, np.uint8)
    if images.ndim != 4 or not 0 < len(images) <= MAX_GOLDEN:
        raise EdgeError(
            f"expected 1 to {MAX_GOLDEN} golden images [N, H, W, C], found {list(images.shape)}; make the bundle again"
        )
    result: dict[str, Any] = {"pixels": 0, "precisions": {}, "p99_ms": None}
    for precision in manifest.models:
        start_step()
        model = Model.open(folder, precision=precision)
        try:
            if not result["precisions"]:
                result["pixels"] = _pixel_difference(model, folder, golden, images)
            expected = _array(folder / golden.logits[precision]["onnxruntime"], np.float32)

            def infer(images: np.ndarray, model: Model = model) -> np.ndarray:
                start_step()
                logits = model.infer(images)
                expected = (len(images), len(model.labels))
                if logits.shape != expected or logits.dtype != np.float32:
                    raise EdgeError(
                        f"expected float32 {model.pair.precision} logits {list(expected)}, one for each label, found "
                        f"{logits.dtype} {list(logits.shape)}; make the bundle again"
                    )
                return logits

            logits = np.concatenate([infer(images[i : i + 1]) for i in range(len(images))])
            allowed = golden.tolerances.logits[precision]
            if not np.isfinite(logits).all():
                raise EdgeError(
                    f"expected finite {precision} logits of golden images, found NaN or infinity on {model.provider}; "
                    "use another release, or repair the runtime"
                )
            difference = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else np.inf
            if not difference <= allowed:  # also true for NaN
                raise EdgeError(
                    f"expected the {precision} logits of golden images within {allowed:.3g}, found {difference:.3g} "
                    f"on {model.provider}; use another release, or repair the runtime"
                )
            result["precisions"][precision] = {"provider": model.provider, "difference": difference}
            limit = manifest.p99_ms
            if limit is not None and result["p99_ms"] is None:
                result["p99_ms"] = p99 = latency(infer, images).p99
                if check_p99 and p99 > limit:
                    raise EdgeError(
                        f"expected a 99th percentile of at most {limit} ms, found {p99:.3f} ms on this "
                        "device; end other programs, or use a smaller model"
                    )
        finally:
            model.close()
    return result


def _pixel_difference(model: Model, folder: Path, golden: Golden, images: np.ndarray) -> int:
    """The largest difference of a pixel, in levels, between the golden files as decoded here and their images."""
    largest = 0
    for file in golden.files:
        if not 0 <= file.row < len(images):
            raise EdgeError(
                f"expected {file.path} in row 0 to {len(images) - 1} of the golden images, found {file.row}; make the "
                "bundle again"
            )
        image = model.pixels((folder / file.path).read_bytes())
        expected = images[file.row]
        difference = int(np.abs(image.astype(int) - expected).max()) if image.shape == expected.shape else 255
        if difference > golden.tolerances.pixels:
            raise EdgeError(
                f"expected the pixels of {file.path} within {golden.tolerances.pixels:g} levels, found {difference}; "
                "install the Pillow that rsd-edge asks for"
            )
        largest = max(largest, difference)
    return largest


def _array(path: Path, dtype: type) -> np.ndarray:
    """A golden array, mapped rather than read: its header may claim any size."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype != dtype:
            raise ValueError(f"numbers of type {array.dtype}")
    except Exception as error:  # a damaged header raises many classes
        raise EdgeError(
            f"expected an array of {np.dtype(dtype)} in {path.name}, found: {short(str(error))}; make the bundle again"
        ) from None
    return np.asarray(array)


def latency(infer: Callable[[np.ndarray], np.ndarray], images: np.ndarray, *, samples: int = SAMPLES) -> Latency:
    """Time `samples` inferences of one image each, uint8 `[N, H, W, C]` taken in turn, after a warm-up."""
    singles = [images[i : i + 1] for i in range(len(images))]
    times = []
    for number in range(WARM_UP + samples):
        start = time.perf_counter_ns()
        infer(singles[number % len(singles)])
        times.append(time.perf_counter_ns() - start)
    p50, p90, p99 = np.percentile(times[WARM_UP:], [50, 90, 99]) / 1e6
    return Latency(samples, float(p50), float(p90), float(p99))
