"""The model that is served, and how the next one replaces it while requests go on."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from rsd_edge.model import Model

POLL = 0.2
"""Seconds between two checks of which release is to be served; a check reads a link and a small file."""
LONGEST_WAIT = 4.0
"""The most seconds between two tries of a release that could not be opened; within the window of `activate`."""


class _Loaded:
    def __init__(self, model: Model, folder: Path, version: object) -> None:
        self.model, self.folder, self.version = model, folder, version
        self.users = 0
        self.retired = False


class LiveModel:
    """Opens the release that `current` names, and switches when it names another, or that one is to run otherwise.

    A switch opens the new model and runs it once while the old one serves. Then new requests get the new model, and the
    old one is closed when its last request has ended. Until then both are in memory. A release that cannot be opened
    changes nothing but `error`; the time until the next try doubles each time.
    """

    def __init__(
        self,
        current: Callable[[], Path | None],
        open_model: Callable[[Path], Model],
        version: Callable[[Path], object] = lambda folder: None,
    ) -> None:
        """`version` tells another way to run the same release; None is none."""
        self._current, self._open, self._version = current, open_model, version
        self._loaded: _Loaded | None = None
        self._failed: tuple[Path, object] | None = None
        self._wait = self._retry_at = 0.0
        """Seconds between two tries of `_failed`, and when the next one is due on the monotonic clock."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.switches = 0
        self.failures = 0
        self.error: str | None = "no release is active; install and activate one"
        """Why the release that `current` names is not served; None if it is."""

    @contextmanager
    def use(self) -> Iterator[Model]:
        """The model that is served; it stays open until the block ends, whatever is activated meanwhile.

        Raises:
            HTTPException: with status 503, if none could be opened yet.
        """
        with self._lock:
            loaded = self._loaded
            if loaded is None:
                raise HTTPException(503, self.error)
            loaded.users += 1
        try:
            yield loaded.model
        finally:
            with self._lock:
                loaded.users -= 1
                unused = loaded.retired and not loaded.users
            if unused:
                loaded.model.close()

    def description(self) -> dict[str, Any]:
        """Model, release, and how it is run; empty if nothing is served."""
        if (loaded := self._loaded) is None:
            return {}
        model = loaded.model
        return {
            "model": model.name,
            "release": model.release,
            **model.pair._asdict(),
            "provider": model.provider,
            "threads": model.threads,
        }

    def refresh(self) -> None:
        """Switch if another release, or this one in another way, is to be served. Only one thread may call this."""
        folder, old = self._current(), self._loaded
        if folder is None:
            return
        version = self._version(folder)
        if old and old.folder == folder and version in (None, old.version):
            self.error = self._failed = None
            return
        target = (folder, version)
        if target == self._failed and time.monotonic() < self._retry_at:
            return
        try:
            model = self._open(folder)
            model.infer(np.zeros((1, *model.input_shape), np.uint8))
        except Exception as error:  # whatever is wrong with the new release, the old one must go on
            self.failures += 1
            self._wait = min(2 * self._wait, LONGEST_WAIT) if target == self._failed else POLL
            self._failed, self._retry_at = target, time.monotonic() + self._wait
            self.error = f"release {folder.name} cannot be served: {error}"
            logging.getLogger("rsd_edge").error("%s", self.error)
            return
        self._serve(_Loaded(model, folder, version))
        self.switches += old is not None
        self.error = self._failed = None

    def watch(self) -> None:
        """Call `refresh` until `stop`; then close the model."""
        while not self._stop.wait(POLL):
            try:
                self.refresh()
            except OSError as error:
                self.error = f"cannot see which release is active: {error}"
        self._serve(None)  # by this thread, so that no `refresh` opens another model after it

    def stop(self) -> None:
        """End `watch`."""
        self._stop.set()

    def _serve(self, loaded: _Loaded | None) -> None:
        """Give new requests another model, and close the one of before once nobody uses it."""
        with self._lock:
            old, self._loaded = self._loaded, loaded
            if old:
                old.retired = True
        if old and not old.users:
            old.model.close()
