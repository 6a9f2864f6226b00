"""One file per runtime: whether it is here, how it runs a file, and how it builds one if it runs engines.

A runtime's name is its file's name. A kit holds a copy of this file, `base.py` and `onnxruntime.py`, which import
nothing but numpy, `rsd.machine.modules` and, when it is asked for, their own library.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from rsd.machine.modules import module_names

if TYPE_CHECKING:
    from rsd.export.runtimes.base import Runtime

MAIN, BUILDER = "onnxruntime", "tensorrt"


def names() -> list[str]:
    """All that there are."""
    return module_names(Path(__file__).parent)


def get(name: str) -> "Runtime":
    """What the file of this name, one of `names`, holds as `RUNTIME`."""
    return importlib.import_module(f"{__name__}.{name}").RUNTIME


def readers() -> list[str]:
    """Runtimes of ONNX files."""
    return [name for name in names() if not get(name).builds]


def builders() -> list[str]:
    """Runtimes that build an engine of an ONNX file first."""
    return [name for name in names() if get(name).builds]


def paired() -> list[str]:
    """What a precision's files are made for: the runtimes of ONNX files, ONNX Runtime first, and `tensorrt`, which
    stands for all that build engines."""
    return [MAIN, *(name for name in readers() if name != MAIN), BUILDER]


def title(row: str) -> str:
    """What people call the runtime of a benchmark's row, such as `TensorRT, without copies`; else `row` itself."""
    name, _, way = row.partition(" ")
    return get(name).titles.get(way, row) if name in names() else row
