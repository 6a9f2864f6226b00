"""What NVIDIA's two TensorRT libraries have in common: one Python API, of which each lacks a part."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rsd.export.runtimes.base import Runtime
from rsd.machine.cuda import NoDriverError, driver

if TYPE_CHECKING:
    from rsd.export.engine import Engine

NO_DEVICE = "not measured: no CUDA device"
INSTALL = "pip install 'rsd[engine]'"


def measurable() -> str | None:
    """Why an engine cannot be measured on this machine; None if it can."""
    try:
        driver()
    except NoDriverError:
        return NO_DEVICE
    return None


class TensorRT(Runtime):
    """A library by its module's name."""

    builds = True
    module: ClassVar[str]
    needs_gpu: ClassVar[bool]
    """To build."""
    capabilities: ClassVar[Sequence[str]]
    """GPU generations that are built for by default; `current` is this machine's."""
    version_compatible: ClassVar[bool]
    """Later versions can load its engines if that is asked for."""

    def load(self) -> str:
        return str(importlib.import_module(self.module).__version__)

    def cannot_build(self) -> str | None:
        """Why no engine can be built here; None if one can."""
        if self.missing():
            return f"{self.titles['']} is not installed here; `{INSTALL}` adds TensorRT for RTX"
        if self.needs_gpu and measurable():
            return f"{self.titles['']} needs the GPU that it builds for, and there is none here"
        return None

    @contextmanager
    def open(self, path: Path, *, threads: int = 1, onnx: Path | None = None) -> Iterator["Engine"]:
        from rsd.export.engine import open_engine

        with open_engine(path, onnx=onnx) as engine:
            yield engine
