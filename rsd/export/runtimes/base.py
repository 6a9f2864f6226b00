"""What a runtime is to the stages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rsd.sources.images import Images


class InferenceSession(Protocol):
    """A file that is open and ready: raw pixels in, logits out."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""

    def logits(self, images: "Images") -> "NDArray[np.float32]":
        """Any number of images, uint8 `[N, H, W, C]` -> float32 `[N, classes]`."""

    def call(self, images: "NDArray[np.uint8]", way: str = "") -> Callable[[], Any]:
        """What a benchmark times: one batch, with all that an application waits for, or another of the runtime's ways.

        Args:
            images: uint8 `[B, H, W, C]`, a batch that the file takes.
            way: a key of the runtime's `titles`.
        """


class Runtime(ABC):
    """Runs files of one kind on this machine. Importing its file must not import its library."""

    titles: ClassVar[Mapping[str, str]]
    """What people call it, by the way in which a file is timed; `""` is the way of an application."""
    builds: ClassVar[bool] = False
    """It runs engines, which are built of ONNX files (`rsd.export.runtimes._tensorrt`)."""

    @abstractmethod
    def load(self) -> str:
        """Import the library; its version. ImportError if it, or a shared library that it needs, is not installed."""

    @abstractmethod
    def open(
        self, path: Path, *, threads: int = 1, onnx: Path | None = None
    ) -> AbstractContextManager[InferenceSession]:
        """Open an ONNX file, or the folder of an engine.

        Args:
            threads: CPU threads within an operator.
            onnx: the graph that an engine was built from, whose weights it may need.
        """

    def missing(self) -> str | None:
        """Why it cannot be used here, in a sentence; None if it can."""
        try:
            self.load()
        except ImportError as error:
            return f"{self.titles['']} is not installed ({error})"
        return None
