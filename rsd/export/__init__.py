"""Export: a student out of training, as ONNX files for each runtime and as TensorRT engines."""

from typing import TYPE_CHECKING, Any

from rsd.machine.extras import needs

needs("export", "onnx", "onnxscript", "onnxruntime")

if TYPE_CHECKING:
    from rsd.export.int8_file import write_int8

__all__ = ["write_int8"]


def __getattr__(name: str) -> Any:
    if name != "write_int8":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rsd.export.int8_file import write_int8  # late: ONNX Runtime's quantiser is slow to import

    return write_int8
