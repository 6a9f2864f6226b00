"""Where the units of a sweep run: in threads of this process, or on the workers of Dask."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner

from pipelines.network import NetworkError, worth_a_retry
from pipelines.outcome import StageError, failed
from pipelines.progress import ProgressArtifact
from pipelines.sweep.clone import Project, StoppedError, run
from pipelines.sweep.units import Unit
from rsd.machine.errors import UserError
from rsd.machine.extras import needs

POLL_SECONDS = 2.0
"""How often a Dask worker asks whether to stop."""
WORKERS_SECONDS = 60


@task(
    cache_policy=NO_CACHE, persist_result=False, retries=3, retry_delay_seconds=[2, 15, 60],
    retry_condition_fn=worth_a_retry,
)  # fmt: skip
def run_unit(unit: Unit, project: Project, needs: dict[str, str], stop: threading.Event) -> Any:
    """Run one unit of a sweep in a clone of its own; returns the ref of its experiment.

    Tries again where git or DVC could not reach its remote. Ends as failed, with a `StageError`, when a stage fails; as
    cancelled when `stop` is set.
    """
    # One artifact for each unit, and one entry among the server's artifacts for all of a sweep.
    progress = ProgressArtifact(unit.display_name, key=project.sweep)
    good = False
    try:
        ref = run(unit, project, needs, stop, progress.say)
        good = True
        return ref
    except StoppedError as error:
        return Cancelled(message=str(error))
    except NetworkError:
        raise
    except StageError as error:
        return failed(error)
    finally:
        progress.end(good=good)


class Place(NamedTuple):
    """Where units run."""

    runner: Any
    """A task runner of Prefect that has been started."""
    slots: Callable[[], int]
    """How many units may run at a time, as of now."""
    stop: threading.Event
    """Setting it stops the units that run there."""


@contextmanager
def on_threads(jobs: int) -> Iterator[Place]:
    """In threads of this process, `jobs` at a time."""
    pool: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=jobs)
    with pool as runner:
        yield Place(runner, lambda: jobs, threading.Event())


@contextmanager
def on_dask(address: str, jobs: int | None) -> Iterator[Place]:
    """On a Dask cluster of `jobs` processes on this machine (`local`), or on a scheduler's workers.

    Raises `UserError` where prefect-dask is not installed or no worker is there.
    """
    needs("dask", "prefect_dask")
    from prefect_dask import DaskTaskRunner

    # Dask logs every connection; workers on this machine inherit the variable.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "error")
    cluster: dict[str, Any] = {
        "n_workers": jobs,
        "threads_per_worker": 1,
        "memory_limit": 0,  # a cell's memory is in processes of its own
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.ERROR,
    }
    where: dict[str, Any] = {"cluster_kwargs": cluster} if address == "local" else {"address": address}
    runner: DaskTaskRunner = DaskTaskRunner(**where)
    with runner:
        try:
            client = runner.client
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(f"expected a Dask scheduler with a worker at {address}, found: {error}") from error

        def slots() -> int:
            there = sum(client.nthreads().values())  # workers come and go
            return there if jobs is None else min(there, jobs)

        yield Place(runner, slots, DaskStop(f"stop {uuid4()}", client))


class DaskStop(threading.Event):
    """An event in Dask's scheduler: the flow sets it, the workers ask for it at most every `POLL_SECONDS`.

    `distributed.Event` alone would ask at each look, and would end a unit whose scheduler is gone.
    """

    def __init__(self, name: str, client: Any = None) -> None:
        super().__init__()
        self._name, self._client = name, client
        self._asked = float("-inf")

    def __reduce__(self) -> tuple[type["DaskStop"], tuple[str]]:
        return DaskStop, (self._name,)

    def set(self) -> None:
        super().set()
        self._event().set()

    def is_set(self) -> bool:
        if not super().is_set() and time.monotonic() - self._asked > POLL_SECONDS:
            self._asked = time.monotonic()
            with suppress(Exception):  # without a scheduler the unit goes on, and git keeps its experiment
                if self._event().is_set():
                    super().set()
        return super().is_set()

    def _event(self) -> Any:
        import distributed

        return distributed.Event(self._name, client=self._client)
