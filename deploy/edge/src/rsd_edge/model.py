"""The model of a release, ready to infer."""

from pathlib import Path

import numpy as np

from rsd_edge import runtimes
from rsd_edge.bundle import manifest_of
from rsd_edge.disk import read
from rsd_edge.errors import EdgeError
from rsd_edge.images import MAX_PIXELS, Preprocessing, decode, preprocess
from rsd_edge.onnxruntime_session import first_line, has_tensorrt
from rsd_edge.onnxruntime_session import runtime as onnxruntime_version
from rsd_edge.records import BUILDER, ONNXRUNTIME, TITLES, MalformedError, Manifest, Pair, load

MAX_TEXT = 1 << 22
"""Bytes of labels.json and of preprocessing.json."""


class Model:
    """The model of a release, in one of its precisions and one runtime.

    Several threads may call `infer` at the same time.
    """

    def __init__(
        self,
        manifest: Manifest,
        pair: Pair,
        threads: int,
        labels: list[str],
        preprocessing: Preprocessing,
        answers: Path,
        session: runtimes.Session,
    ) -> None:
        self.name = manifest.name
        self.release = manifest.release
        self.pair = pair
        self.threads = threads
        self.labels = labels
        self.preprocessing = preprocessing
        self.answers = answers
        """The golden logits of the file that is open."""
        self.input_shape = preprocessing.shape
        self.provider = session.provider
        self._session: runtimes.Session | None = session

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        precision: str | None = None,
        runtime: str = ONNXRUNTIME,
        threads: int = 1,
        engines: Path | None = None,
    ) -> "Model":
        """Open the release in `folder`, which must have been verified.

        TensorRT is used only if `engines.prepare` has built its engine before, so that no client waits for that.

        Args:
            precision: one of the bundle's; by default its first.
            runtime: one that the bundle has a file of this precision for.
            threads: of one inference on the CPU.
            engines: a folder in which TensorRT may build its engine, which takes minutes.

        Raises:
            EdgeError: the bundle has no such pair, a file of it is malformed, or the runtime is not here or does not
                load the model.
        """
        manifest = manifest_of(folder)
        pair = Pair(precision or next(iter(manifest.models)), runtime)
        if pair not in manifest.pairs:
            raise EdgeError(f"expected a pair out of {', '.join(map(str, manifest.pairs))}, found {pair}")
        labels, preprocessing = _labels(folder), Preprocessing.from_json(read(folder / "preprocessing.json", MAX_TEXT))
        ready = engine_folder(folder, pair.precision)
        engines = engines or (ready if ready.is_dir() else None)
        files = manifest.models[pair.precision].onnx
        builds = runtime == ONNXRUNTIME and engines and has_tensorrt() and BUILDER in files
        reader = BUILDER if builds else runtime
        path, answers = folder / files[reader], folder / manifest.golden.logits[pair.precision][reader]
        session = runtimes.open_session(pair, path, threads=threads, shape=preprocessing.shape, engines=engines)
        return cls(manifest, pair, threads, labels, preprocessing, answers, session)

    def pixels(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """What the model takes of an image file: uint8 `[H, W, C]`; see `images.decode`, also for its EdgeError."""
        return preprocess(decode(data, self.preprocessing, max_pixels=max_pixels), self.preprocessing)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Logits float32 `[N, classes]` of images uint8 `[N, H, W, C]`; EdgeError for any other array."""
        if images.dtype != np.uint8 or images.shape[1:] != self.input_shape or not len(images):
            expected = ", ".join(map(str, self.input_shape))
            raise EdgeError(f"expected uint8 [N, {expected}] with N > 0, found {images.dtype} {list(images.shape)}")
        session = self._session  # `close` may come from another thread
        if session is None:
            raise EdgeError("expected an open model, found it closed; open it again")
        return session.logits(images)

    def warm_up(self) -> None:
        """Infer once: only then TensorRT builds its engine, or the runtime falls back; EdgeError if it cannot infer."""
        try:
            self.infer(np.zeros((1, *self.input_shape), np.uint8))
        except EdgeError:
            raise
        except Exception as error:  # a runtime raises classes of its own
            title, version = TITLES[self.pair.runtime], runtimes.installed(self.pair.runtime)
            raise EdgeError(
                f"expected {title} {version} to run the {self.pair.precision} model on {self.provider}, found: "
                f"{first_line(error)}; install another {self.pair.runtime}, or repair its libraries"
            ) from error
        if self._session:
            self.provider = self._session.provider

    def close(self) -> None:
        """Free the memory of the runtime."""
        self._session = None


def top_classes(logits: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Index and softmax probability of the `count` largest of the logits `[classes]`, largest first."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    return [(int(index), float(shares[index])) for index in np.argsort(-logits, kind="stable")[:count]]


def engine_folder(folder: Path, precision: str) -> Path:
    """The folder of a release's TensorRT engine, next to the releases, which hold signed files only.

    Its name holds the runtime's version: a runtime refuses the engine of another and would build one while a client
    waits.
    """
    return folder.parent.parent / "engines" / folder.name / f"{precision}-{onnxruntime_version()}"


def _labels(folder: Path) -> list[str]:
    try:
        labels = load(list[str], read(folder / "labels.json", MAX_TEXT))
    except MalformedError as error:
        raise EdgeError(f"expected a labels.json as rsd writes it: {error}; make the bundle again") from None
    if not labels:
        raise EdgeError("expected a label of each class in labels.json, found none; make the bundle again")
    return labels
