"""How a stage or a flow ended."""

from dataclasses import dataclass
from typing import Any

from prefect.futures import PrefectFuture
from prefect.states import Failed

from rsd.machine.errors import UserError


class StageError(UserError):
    """A stage or a command failed; the message names it and holds its own sentence."""


@dataclass(frozen=True)
class StageRun:
    """How one stage ended."""

    stage: str
    state: str
    """ran | unchanged | from cache | failed | not run"""
    seconds: float = 0.0
    message: str = ""

    @property
    def good(self) -> bool:
        return self.state not in ("failed", "not run")


def task_result(future: PrefectFuture[Any], name: str) -> tuple[bool, str]:
    """Whether a task that has ended did so well, and its result, else the sentence of its failure."""
    try:
        result = future.result(raise_on_failure=False)
    except Exception as error:  # of Dask: it lost its workers, or its scheduler has other libraries
        return False, f"{name}: {' '.join(str(error).split())}"
    if future.state.is_completed():
        return True, str(result)
    return False, str(result) if isinstance(result, StageError) else f"{name}: {future.state.message}"


def failed(error: UserError) -> Any:
    """A state for a flow or task to return, so that it raises `error` for its caller.

    If the flow raised it, Prefect would log it with a traceback through Prefect's own code.
    """
    return Failed(message=str(error), data=error)
