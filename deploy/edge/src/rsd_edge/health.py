"""Is the release that became current served, and does it stay so?"""

import http.client
import time
import urllib.request
from collections.abc import Callable

from rsd_edge.errors import EdgeError


def watch(release: str, window: float, healthy: Callable[[str], bool]) -> None:
    """Wait for `window` seconds; EdgeError if the release did not become healthy in them, or did not stay so."""
    end = time.monotonic() + window
    was_healthy = healthy(release)
    while time.monotonic() < end:
        time.sleep(min(0.5, max(end - time.monotonic(), 0)))
        is_healthy = healthy(release)
        if was_healthy and not is_healthy:
            raise EdgeError(f"expected {release} to stay healthy for {window:g} s, found it ill; see the server's log")
        was_healthy = is_healthy
    if not was_healthy:
        raise EdgeError(
            f"expected {release} to be healthy within {window:g} s, found it never was; see the server's log"
        )


def ready_at(server: str) -> Callable[[str], bool]:
    """Asks the server at an address such as http://127.0.0.1:8080 whether it is ready with a release."""

    # Without the proxies of the environment, which are not for a device's requests to itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def healthy(release: str) -> bool:
        name, _, number = release.rpartition("-")
        try:
            with opener.open(f"{server.rstrip('/')}/v2/models/{name}/versions/{number}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    return healthy
