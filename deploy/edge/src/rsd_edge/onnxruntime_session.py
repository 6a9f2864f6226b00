"""An ONNX file in ONNX Runtime, on the best of its providers that is ready on this device."""

import contextlib
import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from rsd_edge.errors import EdgeError

TENSORRT = "TensorrtExecutionProvider"
MAX_AT_ONCE = 8
"""Images in the largest batch of a TensorRT engine, as in the project. Larger batches are split, because the runtime
would build another engine for them while a client waits."""


class OnnxRuntimeSession:
    """Several threads may call `logits` at the same time."""

    def __init__(
        self, path: Path, precision: str, threads: int, shape: tuple[int, int, int], engines: Path | None
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; fp16 graphs on a CPU warn of every cast
        try:
            self._session = ort.InferenceSession(str(path), options, providers=_providers(precision, shape, engines))
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise EdgeError(
                f"expected ONNX Runtime {ort.__version__} to load {path.parent.name}/{path.name}, found: "
                f"{first_line(error)}; install a newer onnxruntime, or make the bundle with a lower export.opset or "
                "export.ir_version"
            ) from error
        self._at_once = MAX_AT_ONCE if self.provider == TENSORRT else None

    @property
    def provider(self) -> str:
        """The first one; the runtime may fall back to another at the first inference."""
        return str(self._session.get_providers()[0])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Float32 `[N, classes]` of uint8 `[N, H, W, C]`."""
        step = self._at_once or len(images)
        parts: list[np.ndarray] = [
            self._session.run(["logits"], {"image": images[start : start + step]})[0]
            for start in range(0, len(images), step)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def has_tensorrt() -> bool:
    """Whether ONNX Runtime was compiled with TensorRT here; TensorRT's libraries may still be missing."""
    return TENSORRT in ort.get_available_providers()


@cache
def runtime() -> str:
    """The versions of ONNX Runtime and TensorRT, as far as they are known without loading TensorRT."""
    versions = [ort.__version__]
    with contextlib.suppress(PackageNotFoundError):  # TensorRT may come from the system
        versions.append(version("tensorrt"))
    with contextlib.suppress(OSError):  # a Jetson, whose system brings TensorRT
        versions.append(hashlib.sha256(Path("/etc/nv_tegra_release").read_bytes()).hexdigest()[:8])
    return "-".join(versions)


def first_line(error: Exception) -> str:
    """The first line of what an exception says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _providers(precision: str, shape: tuple[int, int, int], engines: Path | None) -> list[Any]:
    available = ort.get_available_providers()
    providers: list[Any] = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    if engines and TENSORRT in available:
        settings: dict[str, Any] = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(engines)}
        settings |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(engines)}
        # TensorRT ignores the types of the graph and computes in float32 without these.
        settings |= {"fp16": {"trt_fp16_enable": True}, "int8": {"trt_int8_enable": True}}.get(precision, {})
        for end, batch in (("min", 1), ("opt", 1), ("max", MAX_AT_ONCE)):
            settings[f"trt_profile_{end}_shapes"] = f"image:{batch}x{'x'.join(map(str, shape))}"
        providers.insert(0, (TENSORRT, settings))
    return providers
