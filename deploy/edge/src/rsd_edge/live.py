"""The model that is served now, and how the next one takes its place while requests go on."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rsd_edge.model import Model

POLL = 0.2
"""Seconds between two looks at which release is to be served; a look reads a link and a small file."""
LONGEST_WAIT = 4.0
"""Seconds until a release that could not be opened is tried again, at most: within the window of `activate`."""


class NoModelError(Exception):
    """There is no release to serve."""


class _Loaded:
    def __init__(self, model: Model, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.users = 0
        self.retired = False


class LiveModel:
    """Opens the release that `current` names, switches when it names another, and closes what nobody uses any more.

    A switch opens the new model and runs it once while the old one serves; only then new requests get it, and the
    old one is closed when its last request has ended. Until then both are in memory. A release that cannot be
    opened changes nothing but `error`, and is tried again after twice as long each time.
    """

    def __init__(self, current: Callable[[], Path | None], open_model: Callable[[Path], Model]) -> None:
        self._current, self._open = current, open_model
        self._loaded: _Loaded | None = None
        self._failed: Path | None = None
        self._wait = self._again = 0.0
        """Seconds to wait before `_failed` is tried again, and until when on the monotonic clock."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.switches = 0
        self.failures = 0
        self.error: str | None = None
        """Why the release that `current` names is not the one served, if that is so."""

    @contextmanager
    def use(self) -> Iterator[Model]:
        """The model of now, which stays open until the block ends, whatever is activated meanwhile.

        Raises:
            NoModelError: none could be opened yet.
        """
        with self._lock:
            loaded = self._loaded
            if loaded is None:
                raise NoModelError(self.error or "no release is active; install and activate one")
            loaded.users += 1
        try:
            yield loaded.model
        finally:
            with self._lock:
                loaded.users -= 1
                unused = loaded.retired and not loaded.users
            if unused:
                loaded.model.close()

    def refresh(self) -> None:
        """Look where `current` points and switch if that is new. One thread calls this."""
        folder, old = self._current(), self._loaded
        if folder is None:
            return
        if old and old.folder == folder:
            self.error = self._failed = None
            return
        if folder == self._failed and time.monotonic() < self._again:
            return
        try:
            model = self._open(folder)
            model.infer(np.zeros((1, *model.input_shape), np.uint8))
        except Exception as error:  # whatever is wrong with a new release, the old one goes on
            self.failures += 1
            self._wait = min(2 * self._wait, LONGEST_WAIT) if folder == self._failed else POLL
            self._failed, self._again = folder, time.monotonic() + self._wait
            self.error = f"release {folder.name} cannot be served: {error}"
            logging.getLogger("rsd_edge").error("%s", self.error)
            return
        with self._lock:
            self._loaded = _Loaded(model, folder)
            if old:
                old.retired = True
            unused = old if old and not old.users else None
        self.switches += old is not None
        self.error = self._failed = None
        if unused:
            unused.model.close()

    def watch(self) -> None:
        """Call `refresh` until `stop`."""
        while not self._stop.wait(POLL):
            try:
                self.refresh()
            except OSError as error:
                self.error = f"cannot see which release is active: {error}"

    def stop(self) -> None:
        """End `watch`, and close the model."""
        self._stop.set()
        with self._lock:
            loaded, self._loaded = self._loaded, None
            if loaded:
                loaded.retired = True
        if loaded and not loaded.users:
            loaded.model.close()
