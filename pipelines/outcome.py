"""How a stage or a flow ended, and how often it may start."""

from dataclasses import dataclass
from typing import Any

from prefect.context import FlowRunContext
from prefect.states import Failed

from rsd.errors import UserError

MOST_STARTS = 5
"""A run that was killed is started again by the server; one that kills its machine shall not be, for ever."""


class StageError(UserError):
    """The stage's address and its own sentence."""


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


def failed(error: UserError) -> Any:
    """A state to return from a flow or task, which then raises `error` for its caller.

    Raised inside, it would be logged with a traceback through Prefect that says nothing more.
    """
    return Failed(message=str(error), data=error)


def check_starts() -> None:
    """Raise `UserError` in a flow run that has been started too often."""
    context = FlowRunContext.get()
    starts = context.flow_run.run_count if context and context.flow_run else 1
    if starts > MOST_STARTS:
        raise UserError(
            f"expected this run to live, found it killed {starts - 1} times; see its logs, "
            "the worker's and the kernel's (out of memory?), then start another"
        )
