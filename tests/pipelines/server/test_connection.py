"""What holds for flows on the command line."""

import pickle

from prefect.context import hydrated_context, serialize_context
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from pipelines.server.connection import RETRIES, server_that_answers


def test_dask_workers_wait_for_an_absent_server(prefect_server: dict[str, str]) -> None:
    assert PREFECT_CLIENT_MAX_RETRIES.value() != RETRIES
    with server_that_answers():
        assert PREFECT_CLIENT_MAX_RETRIES.value() == RETRIES
        sent = pickle.dumps(serialize_context())  # with each task, by prefect-dask

    with hydrated_context(pickle.loads(sent)):
        assert PREFECT_CLIENT_MAX_RETRIES.value() == RETRIES


def test_what_the_user_has_set_stands(prefect_server: dict[str, str]) -> None:
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 3}), server_that_answers():
        assert PREFECT_CLIENT_MAX_RETRIES.value() == 3
