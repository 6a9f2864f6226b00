"""The bar of a stage, as a progress artifact in Prefect's UI."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from pipelines.artifacts import key_of, shown

BAR = re.compile(r"(?:(?P<name>.+?): +)?(?P<percent>\d{1,3})%\|")


class Progress:
    """Follows the bars in a stage's lines; an update that would wait for the server is left out.

    A stage writes to a pipe that someone has to read: whoever reads it must never wait for the network.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        """`address` is what people read, `key` what the artifacts of one kind share."""
        self._address = address
        self._key = key_of("progress", key or address)
        self._artifact: UUID | None = None
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future[None] | None = None

    def follow(self, line: str) -> None:
        if (bar := BAR.match(line)) and (self._last is None or self._last.done()):
            words = f"{self._address}: {bar['name'] or 'progress'}, {line.rpartition('|')[2].strip()}"
            self._last = self._thread.submit(copy_context().run, self._publish, float(bar["percent"]), words)

    def end(self, *, good: bool) -> None:
        """A stage that ended well is at 100 %, whether its bar was seen there or not."""
        if good and self._last is not None:
            self._thread.submit(copy_context().run, self._publish, 100.0, f"{self._address}: done")
        self._thread.shutdown()

    def _publish(self, percent: float, words: str) -> None:
        with shown("progress"):
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self._key, description=words))
            else:
                update_progress_artifact(self._artifact, percent, description=words)
