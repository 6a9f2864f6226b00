"""A signed bundle to a fleet of devices, as a Prefect flow around the playbook in deploy/rollout.

    python -m pipelines.rollout BUNDLE --inventory FILE [--approve]

The playbook does the work, wave by wave, and takes the release back if too many hosts fail. Prefect shows the result of
each host, and can ask a person before each wave but the first.
"""

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, pause_flow_run, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import NotPausedError
from prefect.flow_runs import resume_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled

from pipelines.outcome import failed
from pipelines.process_group import run_group
from pipelines.schedule import stopped_with_the_flow
from pipelines.server.automations import begin
from pipelines.server.connection import one_sentence, server_that_answers
from rsd.machine.errors import UserError
from rsd.machine.extras import needs

PLAYBOOK = Path(__file__).parents[1] / "deploy" / "rollout" / "rollout.yml"
ANSIBLE = [sys.executable, "-P", "-m", "ansible", "playbook"]
POLL_SECONDS = 2
SPARE_SECONDS = 300


class RolloutError(UserError):
    """A rollout was stopped and taken back, or did not start."""


class GoAhead(RunInput):
    """The form that Prefect's UI shows before a wave; a no takes the release back everywhere."""

    go_ahead: bool
    remark: str = ""


@flow(name="rollout", flow_run_name="rollout {bundle}", persist_result=False, retries=0)
def rollout(
    bundle: str,
    inventory: str,
    waves: list[int | str] | None = None,
    allowed_percent: float = 0.0,
    approve: bool = False,
    approval_hours: float = 24.0,
) -> list[dict[str, object]]:
    """Bring a signed bundle to the hosts of an Ansible inventory, wave by wave.

    Args:
        bundle: folder of the signed bundle.
        inventory: file of Ansible's, with the groups canary and devices.
        waves: sizes of the waves, counts or shares of all hosts; none: the canaries, 10 %, 30 %, all.
        allowed_percent: of the hosts tried so far that may fail before the release is taken back everywhere.
        approve: pause before each wave but the first, until somebody has answered in the UI.
        approval_hours: how long to wait for that; no answer is a no.

    Returns:
        One row per host: host, wave, outcome, message.

    Raises:
        RolloutError: the playbook took the release back, or stopped.
        UserError: there is nothing to roll out, or nobody to roll it out to.
    """
    try:
        begin()  # one that was killed is taken up: hosts that have the release are left alone
        _check(bundle, inventory, waves, allowed_percent, approval_hours)
    except UserError as error:
        return failed(error)
    with tempfile.TemporaryDirectory(prefix="rollout-") as folder:
        results = Path(folder) / "results.json"
        variables: dict[str, Any] = {"bundle": str(Path(bundle).resolve()), "results": str(results)}
        variables |= {"allowed_percent": allowed_percent, **({"waves": waves} if waves else {})}
        if approve:
            # The playbook outlasts the pause, which is the one to say that nobody answered.
            variables |= {"approvals": folder, "approval_seconds": int(approval_hours * 3600) + 2 * SPARE_SECONDS}
        command = [*ANSIBLE, "-i", str(Path(inventory).resolve()), str(PLAYBOOK), "-e", json.dumps(variables)]
        stop = threading.Event()
        playbook = run_playbook.submit(command, stop, return_state=False)
        with stopped_with_the_flow(stop, {"playbook": playbook}):
            while not playbook.state.is_final():
                for question in Path(folder).glob("wave-*.hosts"):
                    answer = question.with_suffix(".answer")
                    if not answer.exists():
                        publish(results)
                        go = ask(question.stem, json.loads(question.read_text()), approval_hours * 3600)
                        answer.write_text("yes\n" if go else "no\n")
                time.sleep(POLL_SECONDS / 4)
        outcome = playbook.result(raise_on_failure=False)
        record = publish(results)
    if record.get("reversed") or isinstance(outcome, Exception):
        return failed(RolloutError(record.get("sentence") or str(outcome)))
    return rows(record)


@task(name="ansible-playbook", cache_policy=NO_CACHE, persist_result=False, retries=0)
def run_playbook(command: list[str], stop: threading.Event) -> Any:
    """Run the playbook; ends as failed, with its own last error, when it does."""
    log = get_run_logger()
    ended = run_group(command, Path.cwd(), say=partial(log.info, "%s"), stop=stop)
    if stop.is_set():
        return Cancelled(message="the playbook was stopped; every host is on a release that was good there")
    return failed(RolloutError(reason(ended.lines))) if ended.status else None


def ask(wave: str, hosts: Sequence[str], seconds: float) -> bool:
    """Pause the flow until somebody says whether the next wave may start; False if nobody does."""
    names = ", ".join(hosts[:20]) + (f" and {len(hosts) - 20} more" if len(hosts) > 20 else "")
    form = GoAhead.with_initial_data(
        description=f"**{wave}** brings the release to {names}. The table `rollout` says how the waves before ended. "
        "Without a go-ahead every host goes back."
    )
    # Prefect's own time-out would end the run on the server, which then takes no sentence from us.
    late = threading.Timer(seconds, copy_context().run, [_refuse, UUID(flow_run.id)])
    late.daemon = True
    late.start()
    try:
        answer = pause_flow_run(
            wait_for_input=form, timeout=int(seconds) + SPARE_SECONDS, poll_interval=POLL_SECONDS, key=wave
        )
    finally:
        late.cancel()
    get_run_logger().info("%s: %s %s", wave, "go ahead" if answer.go_ahead else "refused", answer.remark)
    return answer.go_ahead


def _refuse(run: UUID) -> None:
    with suppress(NotPausedError):  # somebody has answered at the last moment
        resume_flow_run(run, run_input={"go_ahead": False, "remark": "because nobody answered in time"})


def publish(results: Path) -> dict[str, Any]:
    """Publish the playbook's results so far, one row per host, as the artifact `rollout`; returns them, if any."""
    if not results.exists():
        return {}
    record: dict[str, Any] = json.loads(results.read_text())
    words = f"{record['release']}: {record['sentence'] or 'well'}"
    create_table_artifact(rows(record), key="rollout", description=words)
    return record


def rows(results: dict[str, Any]) -> list[dict[str, object]]:
    """One row per host, those not tried included."""
    untried = [{"host": name, "wave": None, "outcome": "not tried"} for name in results["not_tried"]]
    return [*results["hosts"], *untried]


def reason(lines: Iterable[str]) -> str:
    """Ansible's last error, else its last line."""
    last = ""
    for line in lines:
        if line.startswith(("[ERROR]: ", "ERROR! ")) or not last.startswith("["):
            last = line
    for prefix in ("[ERROR]: ", "Task failed: ", "Action failed: "):
        last = last.removeprefix(prefix)
    return last or "the playbook ended without a word"


def _check(
    bundle: str, inventory: str, waves: list[int | str] | None, allowed_percent: float, approval_hours: float
) -> None:
    """`UserError` for what is wrong before anything starts."""
    if not (Path(bundle) / "manifest.json").is_file():
        raise UserError(f"expected a signed bundle in {bundle}, found none; sign one with `rsd sign bundle`")
    if not Path(inventory).exists():
        raise UserError(f"expected an inventory in {inventory}, found none; see deploy/rollout/inventory.example.yml")
    needs("rollout", "ansible")
    if wrong := [size for size in waves or [] if not re.fullmatch(r"[1-9]\d{0,5}|([1-9]\d?|100)%", str(size))]:
        raise UserError(f"waves: expected counts and shares such as 1,10%,100%, found {wrong[0]!r}")
    if not 0 <= allowed_percent <= 100:
        raise UserError(f"allowed percent: expected a number from 0 to 100, found {allowed_percent:g}")
    if not 0 < approval_hours <= 8760:
        raise UserError(f"approval hours: expected a number above 0, a year at most, found {approval_hours:g}")


def _waves(text: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the flow; a failure's last line is its sentence, and the exit status is 1."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.rollout", description=(__doc__ or "").strip().splitlines()[0]
    )
    parser.add_argument("bundle", help="folder of a signed bundle")
    parser.add_argument("--inventory", required=True, help="of Ansible, with the groups canary and devices")
    parser.add_argument("--waves", type=_waves, help="sizes, such as 1,10%%,100%% (default: the playbook's)")
    parser.add_argument("--allowed-percent", type=float, default=0.0, help="hosts that may fail (default: 0)")
    parser.add_argument("--approve", action="store_true", help="ask in Prefect's UI before each wave but the first")
    parser.add_argument("--approval-hours", type=float, default=24.0, help="how long to wait (default: 24)")
    options = parser.parse_args(arguments)
    with one_sentence(again="run the same command again: hosts that have the release are left alone"):
        _check(options.bundle, options.inventory, options.waves, options.allowed_percent, options.approval_hours)
        if options.approve and not PREFECT_API_URL.value():
            raise UserError("--approve: expected a Prefect server to ask on, found none; set PREFECT_API_URL")
        with server_that_answers():
            for row in rollout(**vars(options)):
                print(f"{row['host']}: {row['outcome']}", row.get("message") or "")


if __name__ == "__main__":
    main()
