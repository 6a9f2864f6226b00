"""New data in, a release out: pull, reproduce, compare with the last release, push and tag.

    python -m pipelines.nightly

A release is a git tag `release-YYYY-MM-DD` on the commit of `dvc.lock`; its metrics are those that DVC has for that
commit. Commands that use the network are retried, with growing pauses. A gate that fails is not retried, and stops the
flow before anything leaves the machine. Credentials come from the environment, or from the Prefect secret `dvc-remote`,
a JSON object of environment variables; only DVC and git get them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel, ConfigDict, Field

from pipelines import release as releases
from pipelines.artifacts import warn_only
from pipelines.dvc_command import DVC, no_tips, reason
from pipelines.git import git
from pipelines.network import NetworkError, failure, worth_a_retry
from pipelines.outcome import failed
from pipelines.process_group import Ended, run_group
from pipelines.reproduce import reproduce, run_name
from pipelines.server.automations import begin
from pipelines.server.connection import one_sentence, server_that_answers
from pipelines.workspace import one_writer
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml

SECRET = "dvc-remote"  # noqa: S105 - a block's name
FETCH = ["git", "fetch", "--quiet"]
NOT_LOADED = "DVC failed to load"
"""DVC prints this where it did not find the metrics of a revision, and exits with status 0."""
MOVED = (
    "expected the upstream where it was when this run began, found commits that it has not seen; nothing was tagged: "
    "the next run begins with them"
)
SHORTEST_SECRET = 6
"""A shorter value, such as a region or `true`, is no secret; masking it would garble the log."""


class Gate(BaseModel):
    """How much worse than the last release a metric may be."""

    model_config = ConfigDict(extra="forbid")

    metric: str = Field("rsd+kd.top1", title="Metric", description="As `dvc metrics show` names it")
    margin: float = Field(0.5, ge=0, title="Margin", description="How much worse it may be, in its own unit")
    better: Literal["higher", "lower"] = Field("higher", title="Which is better")


DEFAULT_GATES = [Gate()]


@flow(name="nightly", flow_run_name=run_name, persist_result=False, retries=0)
def nightly(root: str = ".", gates: list[Gate] = DEFAULT_GATES, jobs: int | None = None) -> Any:
    """Release the results of the newest data, unless a gate finds them worse than the last release.

    Args:
        root: folder of the project, from the worker's workspace.
        gates: the flow stops where a metric is worse than the last release by more than its margin.
        jobs: stages side by side; none: the cores, divided by the threads of a stage.

    Returns:
        The tag of the release, or a sentence if nothing is new.

    Raises:
        UserError: the workspace has changes that are not committed, a stage or a gate failed, or a remote is away.
    """
    folder = Path(root).resolve()
    log = get_run_logger()
    try:
        begin()
        with one_writer(folder, name=str(runtime.flow_run.name), say=log.info) as lock:
            variables = secrets()
            _check_clean(folder)
            pull(folder, lock, variables)
            reproduce(root=root, jobs=jobs)
            before = releases.last_release(folder)
            results, _ = releases.changed(folder)
            new = before is None or bool(results) or not releases.is_at(folder, before)
            if new:
                compare(folder, before, gates, lock, variables)
                push(folder, lock, variables)
                tag = release(folder, results, lock, variables)
                log.info("released %s", tag)
            elif releases.has_upstream(folder):
                publish(folder, lock, variables)  # what an earlier run could not
    except UserError as error:
        return failed(error)
    return tag if new else f"nothing is new since {before}"


def secrets() -> dict[str, str]:
    """The variables of the Prefect secret `dvc-remote`; none if the server has no such block."""
    try:
        value = Secret.load(SECRET, _sync=True).get()  # type: ignore[union-attr, call-arg]
    except ValueError:
        return {}
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise UserError(f"expected the Prefect secret {SECRET} to be a JSON object of texts, found another; correct it")
    return value


@task(cache_policy=NO_CACHE, retries=4, retry_delay_seconds=exponential_backoff(10), retry_condition_fn=worth_a_retry)
def pull(folder: Path, lock: int, variables: Mapping[str, str]) -> None:
    """Fetch new commits, new versions of imported data, and the data that the `.dvc` files name."""
    if releases.has_upstream(folder):
        _over_the_network(FETCH, folder, lock, variables)
        for tag in releases.unpublished(folder):  # by a run that was killed, or that could not push it
            get_run_logger().info("%s was never published; taking it back", tag)
            releases.take_back(folder, tag)
        if dropped := releases.follow_upstream(folder):
            get_run_logger().info("%s: results of an earlier run, replaced by newer ones", ", ".join(dropped))
    files = releases.data_files(folder)
    if not files:
        get_run_logger().info("DVC keeps no data here; the stage `sources` checks data that lies elsewhere")
        return
    if imported := [file for file in files if "deps" in (read_yaml(folder / file) or {})]:
        _over_the_network([*DVC, "update", *map(str, imported)], folder, lock, variables)
    _over_the_network([*DVC, "pull", "--force", *map(str, files)], folder, lock, variables)


@task(cache_policy=NO_CACHE, retries=4, retry_delay_seconds=exponential_backoff(10), retry_condition_fn=worth_a_retry)
def compare(folder: Path, before: str | None, gates: Sequence[Gate], lock: int, variables: Mapping[str, str]) -> None:
    """Hold the metrics to those of the release `before`; `UserError` with each gate that they miss.

    Metrics that the cache lacks come from the DVC remote; `NetworkError` where they do not.
    """
    if before is None:
        get_run_logger().info("there is no release yet to compare with")
        return
    command = [*DVC, "metrics", "diff", before, "--all", "--json"]
    status, lines = _run_masked(command, folder, lock, variables)
    if missing := next((line for line in lines if NOT_LOADED in line), None):
        raise NetworkError(
            f"cannot compare with {before}: {missing}; expected them in the cache or in the DVC remote, and nothing "
            "was pushed: see `dvc remote list`, or `dvc repro` and `dvc push` in a clone of that release"
        )
    if status:
        raise UserError(f"cannot compare with {before}: {reason(lines)}")
    metrics = {name: values for file in json.loads(lines[-1]).values() for name, values in file.items()}
    with warn_only("comparison"):
        rows = [{"metric": name, **values} for name, values in metrics.items()]
        create_table_artifact(rows, key="comparison", description=f"Metrics against {before}")
    if misses := [sentence for gate in gates if (sentence := miss(gate, metrics, before))]:
        raise UserError("\n".join(misses))


def miss(gate: Gate, metrics: Mapping[str, Mapping[str, object]], before: str) -> str | None:
    """The sentence of a gate that is missed; None if it is passed, or if the release `before` had no such metric."""
    old, new = (metrics.get(gate.metric, {}).get(key) for key in ("old", "new"))
    if not isinstance(new, int | float):
        return f"expected the metric {gate.metric}, found none of that name; see `dvc metrics show`"
    if not isinstance(old, int | float):
        return None
    worse = old - new if gate.better == "higher" else new - old
    if worse <= gate.margin:
        return None
    return (
        f"expected {gate.metric} to be no more than {gate.margin:g} worse than the {old:.6g} of {before}, found "
        f"{new:.6g}, {worse:.4g} worse; nothing was pushed: look at the data, or release by hand"
    )


@task(cache_policy=NO_CACHE, retries=4, retry_delay_seconds=exponential_backoff(10), retry_condition_fn=worth_a_retry)
def push(folder: Path, lock: int, variables: Mapping[str, str]) -> None:
    """Push what `dvc.lock` and the `.dvc` files name to the DVC remote."""
    _over_the_network([*DVC, "push"], folder, lock, variables)


@task(cache_policy=NO_CACHE, retries=4, retry_delay_seconds=exponential_backoff(10), retry_condition_fn=worth_a_retry)
def publish(folder: Path, lock: int, variables: Mapping[str, str]) -> None:
    """Push the commits and the tags of releases to the branch that this one follows."""
    _over_the_network(["git", "push", "--atomic", "--follow-tags", "--quiet"], folder, lock, variables)


def release(folder: Path, results: Sequence[str], lock: int, variables: Mapping[str, str]) -> str:
    """Commit `results`, tag and publish them; returns the tag. If publishing fails, commit and tag are undone."""
    words = f"Released by {runtime.flow_run.name}"
    if not releases.has_upstream(folder):
        return releases.tag_release(folder, results, words)
    fetch(folder, lock, variables)
    if releases.has_moved(folder):
        raise UserError(MOVED)
    tag = releases.tag_release(folder, results, words)
    try:
        publish(folder, lock, variables)
    except BaseException as error:  # a signal as well
        releases.take_back(folder, tag)
        if isinstance(error, UserError) and not isinstance(error, NetworkError):
            fetch(folder, lock, variables)
            if releases.has_moved(folder):  # somebody was faster by a moment
                raise UserError(MOVED) from error
        raise
    return tag


@task(cache_policy=NO_CACHE, retries=4, retry_delay_seconds=exponential_backoff(10), retry_condition_fn=worth_a_retry)
def fetch(folder: Path, lock: int, variables: Mapping[str, str]) -> None:
    """Fetch the commits and tags of the upstream; the workspace stays as it is."""
    _over_the_network(FETCH, folder, lock, variables)


def masked(line: str, variables: Mapping[str, str]) -> str:
    """`line` without the values of the secret."""
    for value in variables.values():
        if len(value) >= SHORTEST_SECRET:
            line = line.replace(value, "***")
    return line


def _run_masked(
    command: list[str],
    folder: Path,
    lock: int,
    variables: Mapping[str, str],
    say: Callable[[str], None] = lambda _: None,
) -> Ended:
    """Run `command` with the secret's `variables`; neither `say` nor the result has their values."""
    own = {"GIT_TERMINAL_PROMPT": "0", **variables}
    shown = no_tips(lambda line: say(masked(line, variables)))
    ended = run_group(command, folder, say=shown, hold=[lock], variables=own)
    return Ended(ended.status, [masked(line, variables) for line in ended.lines])


def _over_the_network(command: list[str], folder: Path, lock: int, variables: Mapping[str, str]) -> None:
    status, lines = _run_masked(command, folder, lock, variables, partial(get_run_logger().info, "%s"))
    if status:
        words = " ".join(["dvc", *command[len(DVC) :]] if command[: len(DVC)] == DVC else command)
        raise failure(f"`{words}` failed: {reason(lines)}", lines)


def _check_clean(folder: Path) -> None:
    git(folder, "rev-parse", "HEAD")
    _, others = releases.changed(folder)
    if others:
        raise UserError(
            f"expected a workspace without changes, so that the tag names what ran, found {', '.join(others)} changed; "
            "commit or stash them"
        )


if __name__ == "__main__":
    with one_sentence(), server_that_answers():
        nightly()
