"""A flow on the command line: the Prefect server that it talks to, and how it ends.

The server is the user's own, else a temporary one.
"""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context

from prefect import get_client, settings
from prefect.settings import PREFECT_API_URL, temporary_settings

from rsd.machine.errors import UserError

RETRIES = 7
"""Waits of 2, 4 ... 128 s: four minutes without a server end no run. Prefect's default gives up after one."""
DEFAULTS = {
    settings.PREFECT_CLIENT_MAX_RETRIES: RETRIES,
    settings.PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,  # 10 to 30 s are usual on a busy machine
    settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,  # its first heartbeat meets a locked database, with a traceback
}
"""For settings that the user has not set. Prefect hands them on to Dask's workers."""


@contextmanager
def one_sentence(*, again: str = "run the same command again to continue") -> Iterator[None]:
    """An error in this block ends the process with status 1 and one sentence as its last line.

    SIGTERM, which `kill` and `docker stop` send, acts as Ctrl-C does: flows end their stages in order, and the sentence
    ends with `again`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell starts `... &` with SIGINT ignored. The stages would inherit that, but are interrupted by SIGINT to
        # save their state. A handler is not inherited.
        signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    except UserError as error:
        _silence_farewells()
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        _silence_farewells()
        sys.exit(f"error: stopped; {again}")


@contextmanager
def server_that_answers() -> Iterator[None]:
    """Flows in this block talk to the user's server, or to a temporary one; `UserError` if it does not answer.

    So do Dask's workers that are started in this block, which else would start a server of their own.
    """
    with temporary_settings(set_defaults=DEFAULTS), temporary_settings({PREFECT_API_URL: _started_server()}):
        yield


def _started_server() -> str:
    """The API of the user's server, or of a temporary one that ignores Ctrl-C; `UserError` if it does not answer.

    A terminal sends Ctrl-C to the server, too. If that ended the server, Prefect would try for minutes to report that
    the flow was stopped. A signal mask belongs to a thread, and the processes that the thread starts inherit it.
    """
    url = ""
    problem: Exception | None = None

    def start() -> None:
        nonlocal url, problem
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with get_client(sync_client=True) as client:
                url, problem = str(client.api_url).rstrip("/"), client.api_healthcheck()
        except Exception as error:  # a server that did not start in time, a setting that it refuses ...
            problem = error

    thread = threading.Thread(target=copy_context().run, args=[start], daemon=True)
    thread.start()
    thread.join()
    if problem:
        where = PREFECT_API_URL.value() or "a temporary one"
        raise UserError(f"no answer from the Prefect server ({where}): {problem}; see PREFECT_API_URL")
    return url


def _silence_farewells() -> None:
    """Keep Prefect's farewell to its temporary server from following the sentence for the user."""
    logging.getLogger("prefect").setLevel(logging.WARNING)
