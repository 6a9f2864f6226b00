"""What the flow costs beside plain `dvc repro`, and how soon a run goes on when its worker is killed.

    python -m benchmarks.flow_overhead
    python -m benchmarks.flow_overhead --rounds 5 --stages 8

Works on a throw-away project of stages that only sleep, in a chain, so that nothing runs side by side; on a server of
its own. Each way runs the whole project anew in every round, turn by turn. Seven minutes on two quiet cores.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from benchmarks.command import command
from benchmarks.interleaved import interleaved, markdown, spread
from pipelines.server import lifecycle
from pipelines.server.daemons import Site
from rsd.machine.errors import UserError

PROJECT = Path(__file__).parents[1]
PORT = 4741
"""Of the benchmark's own server; the next one serves its reports."""
SECONDS = 0.5
"""That a stage sleeps."""
SLEEP = "python -c \"import time; time.sleep({seconds}); open('{out}', 'w').write('x')\""
# A training with a checkpoint: every tenth of a second a step.
TRAIN = """
import sys, time
from pathlib import Path
state = Path("state")
for step in range(int(state.read_text()) if state.exists() else 0, int(sys.argv[1])):
    time.sleep(0.1)
    state.with_suffix(".writing").write_text(str(step + 1))
    state.with_suffix(".writing").replace(state)
Path("trained").write_text("x")
"""


def chain(folder: Path, *, stages: int, seconds: float) -> None:
    """A DVC project of sleeping stages, each after the one before it."""
    lines = ["stages:"]
    for number in range(stages):
        command = SLEEP.format(seconds=seconds, out=f"out{number}")
        lines += [f"  s{number}:", f"    cmd: {command}", f"    outs: [out{number}]"]
        lines += [f"    deps: [out{number - 1}]"] if number else []
    _project(folder, "\n".join(lines))


def fresh(folder: Path) -> None:
    """Forget what ran, so that all of it runs again."""
    for path in [*folder.glob("out*"), folder / "dvc.lock"]:
        path.unlink(missing_ok=True)
    for path in (folder / ".dvc" / "cache", folder / ".dvc" / "tmp"):
        shutil.rmtree(path, ignore_errors=True)


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def overhead(folder: Path, place: Site, *, rounds: int, stages: int) -> list[dict[str, str]]:
    """A row for each way of running the project: its seconds, and those beyond `dvc repro`, in all and per stage."""
    dvc = [sys.executable, "-P", "-m", "dvc", "repro", "-q"]
    flow = [sys.executable, "-m", "pipelines.reproduce", "--jobs", "1"]
    warm = place.environment | {"PYTHONPATH": str(PROJECT)}
    cold = {key: value for key, value in warm.items() if key != "PREFECT_API_URL"}
    cold["PREFECT_HOME"] = str(folder.parent / "cold")

    def anew(command: list[str], environment: Mapping[str, str]) -> None:
        fresh(folder)
        run(command, folder, environment)

    def deployed() -> None:
        fresh(folder)
        ended = run_deployment(
            "reproduce/default", parameters={"root": str(folder), "jobs": 1}, as_subflow=False, poll_interval=0.2
        )
        assert isinstance(ended, FlowRun)
        if ended.state is None or not ended.state.is_completed():
            raise UserError(f"the run on the worker ended as {ended.state}")

    ways = {
        "dvc repro": lambda: anew(dvc, warm),
        "flow, server runs": lambda: anew(flow, warm),
        "flow, server started for it": lambda: anew(flow, cold),
        "flow, on a worker": deployed,
    }
    seconds = interleaved(ways, rounds=rounds, warmup=1)
    rows = []
    for name in ways:
        beyond = seconds[name] - seconds["dvc repro"]
        each, whole = ("", "") if name == "dvc repro" else (spread(beyond / stages), spread(beyond))
        rows.append({"way": name, "seconds": spread(seconds[name]), "beyond dvc repro, s": whole, "a stage, s": each})
    return rows


def resumption(folder: Path, place: Site) -> list[dict[str, str]]:
    """How long a training stands still when its worker and its flow get SIGKILL: by `make server`, and alone."""
    starts = {
        "by `make server`": lambda: lifecycle.start(place, say=lambda _: None),
        "by the missing heartbeat alone": place.worker.start,
    }
    return [
        {"taken up": by, "stood still, s": f"{_standstill(folder, place, start):.0f}"} for by, start in starts.items()
    ]


def _standstill(folder: Path, place: Site, take_up: Callable[[], None]) -> float:
    for path in ("state", "trained", "dvc.lock"):
        (folder / path).unlink(missing_ok=True)
    shutil.rmtree(folder / ".dvc" / "cache", ignore_errors=True)
    run_deployment("reproduce/default", parameters={"root": str(folder)}, timeout=0, as_subflow=False)
    _wait(lambda: _step(folder) > 10, 120)
    worker = place.worker.running()
    assert worker is not None
    start = time.monotonic()
    for process in [worker, *worker.children(recursive=True)]:
        if "prefect" in " ".join(process.cmdline()):
            process.send_signal(signal.SIGKILL)
    time.sleep(2)  # its stage has been interrupted by then
    last_step = _step(folder)
    take_up()
    _wait(lambda: _step(folder) > last_step, 600)
    seconds = time.monotonic() - start
    _wait(lambda: (folder / "trained").exists(), 300)
    return seconds


def _project(folder: Path, graph: str) -> None:
    folder.mkdir(parents=True)
    run(["git", "init", "-q"], folder, os.environ)
    run([sys.executable, "-m", "dvc", "init", "-q"], folder, os.environ)
    (folder / "dvc.yaml").write_text(graph + "\n")


def _step(folder: Path) -> int:
    state = folder / "state"
    return int(state.read_text() or 0) if state.exists() else 0


def _wait(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise UserError(f"gave up waiting after {seconds:g} s")
        time.sleep(0.1)


def main(rounds: int = 3, stages: int = 4) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        place = Site(PROJECT, home, PORT, elsewhere=None)
        chain(Path(temporary) / "chain", stages=stages, seconds=SECONDS)
        _project(
            Path(temporary) / "train", "stages:\n  train: {cmd: python train.py 600, deps: [train.py], outs: [trained]}"
        )
        (Path(temporary) / "train" / "train.py").write_text(TRAIN)
        with temporary_settings({PREFECT_HOME: home, PREFECT_API_URL: f"{place.page}/api"}):
            try:
                start = time.monotonic()
                lifecycle.start(place, say=lambda _: None)
                print(f"`make server` took {time.monotonic() - start:.0f} s\n")
                rows = overhead(Path(temporary) / "chain", place, rounds=rounds, stages=stages)
                print(
                    f"{stages} stages of {SECONDS:g} s, one after the other; {os.cpu_count()} "
                    f"cores, load {psutil.getloadavg()[0]:.1f}; median and quartiles of {rounds} rounds\n\n"
                    f"{markdown(rows)}\n"
                )
                print(markdown(resumption(Path(temporary) / "train", place)))
            finally:
                lifecycle.stop(place, say=lambda _: None)


if __name__ == "__main__":
    command(main, __doc__)
