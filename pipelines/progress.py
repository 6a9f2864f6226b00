"""The progress bar of a stage, as an artifact in Prefect's UI."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from pipelines.artifacts import key_of, warn_only

BAR = re.compile(r"(?:(?P<name>.+?): +)?(?P<percent>\d{1,3})%\|")


class ProgressArtifact:
    """Logs a stage's lines and follows the bars in them.

    An update is left out while the last one still waits for the server. So reading the lines never waits for the
    network, and the stage never waits for its lines to be read.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        """`address` is for people; artifacts of one `key` are one entry in the UI."""
        self._address, self._log = address, get_run_logger()
        self._key = key_of("progress", key or address)
        self._artifact: UUID | None = None
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future[None] | None = None

    def say(self, line: str) -> None:
        self._log.info("%s", line)
        if (bar := BAR.match(line)) and (self._last is None or self._last.done()):
            words = f"{self._address}: {bar['name'] or 'progress'}, {line.rpartition('|')[2].strip()}"
            self._last = self._thread.submit(copy_context().run, self._publish, float(bar["percent"]), words)

    def end(self, *, good: bool) -> None:
        """Show 100 % for a stage that ended well, even if its bar stopped before."""
        if good and self._last is not None:
            self._thread.submit(copy_context().run, self._publish, 100.0, f"{self._address}: done")
        self._thread.shutdown()

    def _publish(self, percent: float, words: str) -> None:
        with warn_only("progress"):
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self._key, description=words))
            else:
                update_progress_artifact(self._artifact, percent, description=words)
