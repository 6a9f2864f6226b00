"""Is a release that has just become current served, and does it stay so?"""

import http.client
import time
import urllib.request
from collections.abc import Callable

from rsd_edge.errors import EdgeError


def watch(release: str, window: float, healthy: Callable[[str], bool]) -> None:
    """Wait out the window of so many seconds; EdgeError if the release was never healthy in it, or stopped being so."""
    end = time.monotonic() + window
    well = healthy(release)
    while time.monotonic() < end:
        time.sleep(min(0.5, max(end - time.monotonic(), 0)))
        now = healthy(release)
        if well and not now:
            raise EdgeError(
                f"expected {release} to stay healthy, found it ill within {window:g} s; see the server's log"
            )
        well = now
    if not well:
        raise EdgeError(
            f"expected {release} to be healthy within {window:g} s, found it never was; see the server's log"
        )


def served(server: str) -> Callable[[str], bool]:
    """Whether the server at this address, such as http://127.0.0.1:8080, says that it is ready with a release."""

    # Whatever proxy the environment names: it has no business between a device and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def healthy(release: str) -> bool:
        name, _, number = release.rpartition("-")
        try:
            with opener.open(f"{server.rstrip('/')}/v2/models/{name}/versions/{number}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    return healthy
