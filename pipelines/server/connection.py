"""The Prefect server that a flow on the command line talks to: the user's own, else a temporary one."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context

from prefect import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from rsd.machine.errors import UserError

RETRIES = 7
"""Waits of 2, 4 ... 128 s: four minutes without a server end no run. Prefect's default gives up after one."""
DEFAULTS = {
    PREFECT_CLIENT_MAX_RETRIES: RETRIES,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,  # 10 to 30 s are usual on a busy machine
    PREFECT_SERVER_ANALYTICS_ENABLED: False,  # its first heartbeat meets a locked database, with a traceback
}
"""Used where the user's own settings say nothing; Prefect hands them on to Dask's workers."""


@contextmanager
def one_sentence(*, again: str = "run the same command again to continue") -> Iterator[None]:
    """What goes wrong in this block ends the process with status 1 and one sentence as its last line.

    SIGTERM, of `kill` and `docker stop`, is as Ctrl-C: flows end their stages in order, and `again` says what to do.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell starts `... &` deaf to Ctrl-C, and so would be the stages, which are interrupted to save their state.
        # What has a handler of its own starts its processes without one.
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
    """Flows in this block talk to the user's server, or to a temporary one; `UserError` if it does not answer."""
    with temporary_settings(set_defaults=DEFAULTS):
        _start_server()
        yield


@contextmanager
def known_to_others() -> Iterator[None]:
    """Other processes that are started in this block talk to the temporary server, too, and start none of their own."""
    with get_client(sync_client=True) as client:
        url = str(client.api_url).rstrip("/")
    with temporary_settings({PREFECT_API_URL: url}):
        yield


def _start_server() -> None:
    """Start the temporary server, if the user has set none, deaf to Ctrl-C; `UserError` if none answers.

    A terminal sends Ctrl-C to the server too. Without it Prefect would try for minutes to say that the flow
    was stopped. A signal mask belongs to a thread and is inherited by what the thread starts.
    """

    problem: list[Exception] = []

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with get_client(sync_client=True) as client:
                if error := client.api_healthcheck():
                    problem.append(error)
        except Exception as error:  # a server that did not start in time, a setting it refuses ...
            problem.append(error)

    thread = threading.Thread(target=copy_context().run, args=[start], daemon=True)
    thread.start()
    thread.join()
    if problem:
        where = PREFECT_API_URL.value() or "a temporary one"
        raise UserError(f"no answer from the Prefect server ({where}): {problem[0]}; see PREFECT_API_URL")


def _silence_farewells() -> None:
    """Prefect says good-bye to its temporary server at exit; the sentence for the user comes last."""
    logging.getLogger("prefect").setLevel(logging.WARNING)
