"""Which failures of git and DVC may pass, so that the same command is tried again."""

from collections.abc import Iterable
from typing import Any

from prefect.client.schemas.objects import TaskRun
from prefect.states import State
from prefect.tasks import Task

from pipelines.outcome import StageError

LASTING = (
    # git
    "a git repository", "does not exist", "' not found", "Repository not found", "fast-forward", "diverging",
    "rejected]", "overwritten by merge", "Authentication failed", "could not read Username", "Permission denied",
    # DVC
    "Checkout failed", "no remote", "No remote", "config file error", "Forbidden", "AccessDenied",
    "InvalidAccessKeyId", "SignatureDoesNotMatch",
    # either
    "No space left",
)  # fmt: skip
"""Parts of messages that a second try would only repeat."""


class NetworkError(StageError):
    """A remote could not be reached: the one failure that another try may mend."""


def failure(sentence: str, output: Iterable[str]) -> StageError:
    """The error of a command that used the network: `NetworkError`, unless its `output` names a lasting cause."""
    lasting = any(mark in line for line in output for mark in LASTING)
    return StageError(sentence) if lasting else NetworkError(sentence)


def worth_a_retry(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: only a `NetworkError` is tried again."""
    return isinstance(state.result(raise_on_failure=False), NetworkError)
