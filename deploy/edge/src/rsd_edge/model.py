"""The model of a release, ready to infer."""

import contextlib
import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from rsd_edge.bundle import manifest_of
from rsd_edge.disk import read
from rsd_edge.errors import EdgeError
from rsd_edge.images import MAX_PIXELS, Preprocessing, decode, preprocess
from rsd_edge.records import MalformedError, Manifest, load

TENSORRT = "TensorrtExecutionProvider"
MAX_TEXT = 1 << 22
"""Bytes of labels.json and of preprocessing.json."""
MAX_AT_ONCE = 8
"""Images in the largest batch of a TensorRT engine, as in the project. Larger batches are split, because the runtime
would build another engine for them while a client waits."""


class Model:
    """The model of a release, on the best provider of ONNX Runtime that is ready on this device.

    Several threads may call `infer` at the same time.
    """

    def __init__(
        self, manifest: Manifest, precision: str, labels: list[str], preprocessing: Preprocessing, session: Any
    ) -> None:
        self.name = manifest.name
        self.release = manifest.release
        self.precision = precision
        self.labels = labels
        self.preprocessing = preprocessing
        self.input_shape = preprocessing.shape
        self.provider: str = session.get_providers()[0]
        self._session = session

    @classmethod
    def open(
        cls, folder: Path, *, precision: str | None = None, threads: int = 1, engines: Path | None = None
    ) -> "Model":
        """Open the release in `folder`, which must have been verified.

        TensorRT is used only if `engines.prepare` has built its engine before, so that no client waits for that.

        Args:
            folder: of the release.
            precision: one of the bundle's; by default its first.
            threads: of one inference on the CPU.
            engines: a folder in which TensorRT may build its engine, which takes minutes.

        Raises:
            EdgeError: the bundle has no such precision, a file of it is malformed, or the runtime does not load the
                model.
        """
        manifest = manifest_of(folder)
        precision = precision or next(iter(manifest.models))
        if precision not in manifest.models:
            raise EdgeError(f"expected a precision out of {', '.join(manifest.models)}, found {precision}")
        labels, preprocessing = _labels(folder), Preprocessing.from_json(read(folder / "preprocessing.json", MAX_TEXT))
        ready = engine_folder(folder, precision)
        engines = engines or (ready if ready.is_dir() else None)
        path = folder / manifest.models[precision].onnx["onnxruntime"]
        session = _session(path, precision, threads, preprocessing, engines)
        return cls(manifest, precision, labels, preprocessing, session)

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
        step = MAX_AT_ONCE if self.provider == TENSORRT else len(images)
        parts = [
            session.run(["logits"], {"image": images[start : start + step]})[0] for start in range(0, len(images), step)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def warm_up(self) -> None:
        """Infer once. Only then does TensorRT build its engine, or the runtime fall back to another provider.

        Raises:
            EdgeError: the runtime cannot infer.
        """
        try:
            self.infer(np.zeros((1, *self.input_shape), np.uint8))
        except EdgeError:
            raise
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise EdgeError(
                f"expected ONNX Runtime {ort.__version__} to run the {self.precision} model on {self.provider}, found: "
                f"{_first_line(error)}; install another onnxruntime, or repair its libraries"
            ) from error
        self.provider = self._session.get_providers()[0]

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
    return folder.parent.parent / "engines" / folder.name / f"{precision}-{_runtime()}"


def has_tensorrt() -> bool:
    """Whether ONNX Runtime was compiled with TensorRT here; TensorRT's libraries may still be missing."""
    return TENSORRT in ort.get_available_providers()


@cache
def _runtime() -> str:
    """The versions of ONNX Runtime and TensorRT, as far as they are known without loading TensorRT."""
    versions = [ort.__version__]
    with contextlib.suppress(PackageNotFoundError):  # TensorRT may come from the system
        versions.append(version("tensorrt"))
    with contextlib.suppress(OSError):  # a Jetson, whose system brings TensorRT
        versions.append(hashlib.sha256(Path("/etc/nv_tegra_release").read_bytes()).hexdigest()[:8])
    return "-".join(versions)


def _labels(folder: Path) -> list[str]:
    try:
        labels = load(list[str], read(folder / "labels.json", MAX_TEXT))
    except MalformedError as error:
        raise EdgeError(f"expected a labels.json as rsd writes it: {error}; make the bundle again") from None
    if not labels:
        raise EdgeError("expected a label of each class in labels.json, found none; make the bundle again")
    return labels


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _session(path: Path, precision: str, threads: int, preprocessing: Preprocessing, engines: Path | None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; fp16 graphs on a CPU warn of every cast
    available = ort.get_available_providers()
    providers: list[Any] = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    if engines and TENSORRT in available:
        shape = "x".join(map(str, preprocessing.shape))
        settings: dict[str, Any] = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(engines)}
        settings |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(engines)}
        # TensorRT ignores the types of the graph and computes in float32 without these.
        settings |= {"fp16": {"trt_fp16_enable": True}, "int8": {"trt_int8_enable": True}}.get(precision, {})
        for end, batch in (("min", 1), ("opt", 1), ("max", MAX_AT_ONCE)):
            settings[f"trt_profile_{end}_shapes"] = f"image:{batch}x{shape}"
        providers.insert(0, (TENSORRT, settings))
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise EdgeError(
            f"expected ONNX Runtime {ort.__version__} to load {path.parent.name}/{path.name}, found: "
            f"{_first_line(error)}; install a newer onnxruntime, or make the bundle with a lower export.opset or "
            "export.ir_version"
        ) from error
