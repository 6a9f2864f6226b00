"""The self-test of a release: its golden files, the golden logits of each pair, and the latency on this device.

What runs here runs in a child process, see `child`: each pair in one of its own.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np

from rsd_edge.bundle import manifest_of
from rsd_edge.disk import read
from rsd_edge.errors import EdgeError
from rsd_edge.images import Preprocessing, decode, preprocess
from rsd_edge.model import MAX_TEXT, Model
from rsd_edge.records import TITLES, Pair, short

SAMPLES = 1000
"""Inferences that are timed; ten of them lie above the 99th percentile."""
WARM_UP = 50
P99_SECONDS = 120.0
"""For the samples of a slow model, of which there are fewer then; no more than a sixth of the time that is left."""
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


@dataclass(frozen=True)
class Deadline:
    """When the self-test of a release must end, on the monotonic clock."""

    release: str
    seconds: float
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds; EdgeError if there are none."""
        left = self.start + self.seconds - time.monotonic()
        if left <= 0:
            raise EdgeError(
                f"expected the self-test of {self.release} to end within {self.seconds:g} seconds, found it still at "
                "work; use a faster model, or fewer golden images"
            )
        return left

    def start_step(self) -> None:
        """Let this process end after `STEP` seconds, or when no time is left; for a child only."""
        signal.setitimer(signal.ITIMER_REAL, min(STEP, self.left))


def check_files(folder: Path) -> None:
    """Compare the golden files, as decoded here, with the golden images.

    Raises:
        EdgeError: a pixel is further off than the bundle allows, or a file is malformed.
    """
    golden = manifest_of(folder).golden
    preprocessing = Preprocessing.from_json(read(folder / "preprocessing.json", MAX_TEXT))
    images = golden_images(folder)
    for file in golden.files:
        if not 0 <= file.row < len(images):
            raise EdgeError(
                f"expected {file.path} in row 0 to {len(images) - 1} of the golden images, found {file.row}; make the "
                "bundle again"
            )
        image = preprocess(decode((folder / file.path).read_bytes(), preprocessing), preprocessing)
        expected = images[file.row]
        difference = int(np.abs(image.astype(int) - expected).max()) if image.shape == expected.shape else 255
        if difference > golden.tolerances.pixels:
            raise EdgeError(
                f"expected the pixels of {file.path} within {golden.tolerances.pixels:g} levels, found {difference}; "
                "install the Pillow that rsd-edge asks for"
            )


def check_pair(
    folder: Path, pair: Pair, threads: int, deadline: Deadline, *, images: int = MAX_GOLDEN
) -> tuple[Model, float]:
    """Open a pair, run it on the golden images, or the first few of them, and compare its logits with the golden ones.

    Returns:
        The model, which is still open, and the largest difference of a logit.

    Raises:
        EdgeError: a logit is beyond what the bundle allows, or the runtime does not load the model.
    """
    golden = manifest_of(folder).golden
    inputs = golden_images(folder)
    deadline.start_step()
    model = Model.open(folder, precision=pair.precision, runtime=pair.runtime, threads=threads)
    expected = _array(model.answers, np.float32)

    def infer(image: np.ndarray) -> np.ndarray:
        deadline.start_step()
        logits, shape = model.infer(image), (1, len(model.labels))
        if logits.shape != shape or logits.dtype != np.float32:
            raise EdgeError(
                f"expected float32 {pair.precision} logits {list(shape)}, one for each label, found {logits.dtype} "
                f"{list(logits.shape)}; make the bundle again"
            )
        return logits

    logits = np.concatenate([infer(inputs[i : i + 1]) for i in range(min(images, len(inputs)))])
    where = f"in {TITLES[pair.runtime]} on {model.provider}"
    if not np.isfinite(logits).all():
        raise EdgeError(
            f"expected finite {pair.precision} logits of golden images, found NaN or infinity {where}; use another "
            "release, or repair the runtime"
        )
    allowed = golden.tolerances.logits[pair.precision]
    same_shape = expected.shape == (len(inputs), len(model.labels))
    difference = float(np.abs(logits - expected[: len(logits)]).max()) if same_shape else np.inf
    if not difference <= allowed:  # also true for NaN
        raise EdgeError(
            f"expected the {pair.precision} logits of golden images within {allowed:.3g}, found {difference:.3g} "
            f"{where}; use another release, or repair the runtime"
        )
    return model, difference


def p99_of(folder: Path, pair: Pair, threads: int, deadline: Deadline) -> float:
    """The 99th percentile of one inference, in milliseconds; EdgeError as `Model.open`."""
    deadline.start_step()
    model = Model.open(folder, precision=pair.precision, runtime=pair.runtime, threads=threads)

    def infer(image: np.ndarray) -> np.ndarray:
        deadline.start_step()
        return model.infer(image)

    return latency(infer, golden_images(folder), seconds=min(P99_SECONDS, deadline.left / 6)).p99


def latency(
    infer: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    *,
    samples: int = SAMPLES,
    seconds: float = math.inf,
) -> Latency:
    """Time up to `samples` inferences of one image each, uint8 `[N, H, W, C]` taken in turn, after a warm-up."""
    times: list[int] = []
    end = time.monotonic() + seconds
    for number, image in enumerate(singles(images)):
        start = time.perf_counter_ns()
        infer(image)
        times.append(time.perf_counter_ns() - start)
        if number + 1 == WARM_UP + samples or (number >= WARM_UP and time.monotonic() > end):
            break
    p50, p90, p99 = np.percentile(times[WARM_UP:], [50, 90, 99]) / 1e6
    return Latency(len(times) - WARM_UP, float(p50), float(p90), float(p99))


def singles(images: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of one image, without an end."""
    return cycle([images[i : i + 1] for i in range(len(images))])


def golden_images(folder: Path) -> np.ndarray:
    images = _array(folder / manifest_of(folder).golden.images, np.uint8)
    if images.ndim != 4 or not 0 < len(images) <= MAX_GOLDEN:
        raise EdgeError(
            f"expected 1 to {MAX_GOLDEN} golden images [N, H, W, C], found {list(images.shape)}; make the bundle again"
        )
    return images


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
