"""A Prefect server with all deployments and a worker on this machine: `make server` and `make server-stop`.

    python -m pipelines.operate start | stop

Everything of it lives in PREFECT_HOME, `.prefect/` of the project if that is not set: the database, the logs, and
who runs. What already runs is left alone, what died is started again, and runs that died with it are taken up.
Where PREFECT_API_URL names another server, that one gets the deployments, and only the worker is started here.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from pipelines.gpus import create_limits, visible_gpus
from pipelines.server import RETRIES, one_sentence
from pipelines.upkeep import create_automations, create_pool, deployments, take_up_lost_runs
from rsd.machine.errors import UserError
from rsd.machine.files import read_json, write_json

POOL = "rsd"
PORT = 4200
LOST_SECONDS = 150
"""A run that is silent for so long is dead. It says every 30 s that it lives (prefect.yaml)."""
START_SECONDS = 180.0
"""A server that neither answers nor gets on for so long will not come up."""
LONGEST_START = 1200.0
"""Where it gets on, for all that is seen: on a machine that is busy a start of 20 s takes minutes."""
STOP_SECONDS = 60.0
"""A stage has ten to save its state, and Prefect thirty to end its run."""


@dataclass(frozen=True)
class Daemon:
    """A process of ours that outlives the command that started it.

    `home`/NAME.json says which process it is, NAME.log what it said.
    """

    name: str
    command: list[str]
    home: Path
    environment: Mapping[str, str]

    def running(self) -> psutil.Process | None:
        """The process; None if it ended, or if its number belongs to another by now."""
        file = self.home / f"{self.name}.json"
        try:
            noted = read_json(file)
            process = psutil.Process(noted["process"])
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            return process if alive and abs(process.create_time() - noted["started"]) < 1 else None
        except (OSError, ValueError, KeyError, psutil.Error):
            return None

    def start(self) -> None:
        with (self.home / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = psutil.Process(process.pid).create_time()
        write_json(self.home / f"{self.name}.json", {"process": process.pid, "started": started})

    def stop(self) -> bool:
        """End it, gently at first, with all that it started; False if it did not run."""
        process = self.running()
        if process is None:
            return False
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for one in alive:
            one.kill()
        psutil.wait_procs(alive, timeout=STOP_SECONDS)
        (self.home / f"{self.name}.json").unlink(missing_ok=True)
        return True

    def got_so_far(self) -> tuple[int, int]:
        """How much it has said and computed, in bytes and seconds: what has grown lives."""
        process = self.running()
        family = [process, *process.children(recursive=True)] if process else []
        seconds = 0.0
        for one in family:
            with suppress(psutil.Error):
                seconds += sum(one.cpu_times()[:2])
        return (self.home / f"{self.name}.log").stat().st_size, int(seconds)

    def last_words(self) -> str:
        lines = (self.home / f"{self.name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-10:])


@dataclass(frozen=True)
class Site:
    """Where everything is: the project, the state, the addresses."""

    project: Path
    home: Path
    port: int
    elsewhere: str | None
    """The API of a server that someone else runs."""

    @property
    def page(self) -> str:
        return (self.elsewhere or f"http://127.0.0.1:{self.port}/api").removesuffix("/api")

    @property
    def home_in_words(self) -> Path:
        return self.home.relative_to(self.project) if self.home.is_relative_to(self.project) else self.home

    @property
    def files(self) -> str:
        """Where a browser on this machine finds `out/`."""
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that is started here. What the user has set stands."""
        here = str(Path(sys.executable).parent)
        return {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # In memory, Prefect's default, a restart would forget who holds a limit and never free it.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_CLIENT_MAX_RETRIES": str(RETRIES),
            **({} if self.elsewhere else {"RSD_OUT_URL": self.files}),
            **os.environ,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.page}/api",
            "RSD_WORKSPACE": str(self.project),
            "PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)]),
        }

    def daemon(self, name: str, *command: str) -> Daemon:
        return Daemon(name, [sys.executable, *command], self.home, self.environment)

    @property
    def server(self) -> Daemon:
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return self.daemon("server", "-m", "prefect", "server", "start", *where)

    @property
    def worker(self) -> Daemon:
        who = ["--pool", POOL, "--type", "process", "--name", socket.gethostname(), "--install-policy", "never"]
        return self.daemon("worker", "-m", "prefect", "worker", "start", *who)

    @property
    def reports(self) -> Daemon:
        where = [str(self.port + 1), "--bind", "127.0.0.1", "--directory", str(self.project / "out")]
        return self.daemon("reports", "-m", "http.server", *where)


def site(project: Path) -> Site:
    """As the environment says: PREFECT_HOME, PREFECT_SERVER_API_PORT, PREFECT_API_URL."""
    home = Path(os.environ.get("PREFECT_HOME") or project / ".prefect").expanduser().resolve()
    port = int(os.environ.get("PREFECT_SERVER_API_PORT") or PORT)
    api = (os.environ.get("PREFECT_API_URL") or "").rstrip("/")
    ours = {f"http://{host}:{port}/api" for host in ("127.0.0.1", "localhost")}
    return Site(project.resolve(), home, port, elsewhere=None if api in ours or not api else api)


def start(place: Site, say: Callable[[str], None] = print) -> None:
    """Start what does not run yet; `UserError` if it does not come up."""
    place.home.mkdir(parents=True, exist_ok=True)
    start_server(place, say)
    if not place.elsewhere:
        say(f"reports      {place.files} {_once(place.reports)}")
    with temporary_settings({PREFECT_API_URL: f"{place.page}/api", PREFECT_HOME: place.home}):
        create_pool(POOL)
        create_limits(visible_gpus())
        create_automations(POOL, lost_after=LOST_SECONDS)
        _deploy(place)
        say(f"deployments  {', '.join(deployments(POOL))}")
        for name in take_up_lost_runs(POOL):
            say(f"taken up     {name}")
    say(f"worker       pool {POOL}, {_once(place.worker)}")
    say(
        f"\nexport PREFECT_API_URL={place.page}/api\n"
        "prefect deployment run reproduce/default --watch\n"
        f"make server-stop       # the logs are in {place.home_in_words}"
    )


def stop(place: Site, say: Callable[[str], None] = print) -> None:
    """Stop the worker, whose runs save their state and go on at the next start, and then the server."""
    for daemon in (place.worker, place.reports, place.server):
        say(f"{daemon.name:<12} {'stopped' if daemon.stop() else 'not running'}")


def answers(place: Site) -> bool:
    try:
        return httpx.get(f"{place.page}/api/health", timeout=5).json() is True
    except (httpx.HTTPError, ValueError):
        return False


def start_server(place: Site, say: Callable[[str], None] = print) -> None:
    """Start the server, unless it runs or someone else's is used; `UserError` if it does not answer."""
    if place.elsewhere:
        if not answers(place):
            raise UserError(f"no answer from {place.elsewhere}; correct PREFECT_API_URL, or unset it for a server here")
        say(f"server       {place.page} (PREFECT_API_URL)")
        return
    runs = place.server.running() is not None
    if not runs:
        if _taken(place.port):
            raise UserError(
                f"expected port {place.port} to be free, found another program on it; "
                "set PREFECT_SERVER_API_PORT, or PREFECT_API_URL if it is your server"
            )
        place.server.start()
    so_far = place.server.got_so_far()
    start = changed = time.monotonic()
    while not answers(place):
        now = time.monotonic()
        if so_far != (so_far := place.server.got_so_far()):
            changed = now
        if not place.server.running() or now > min(changed + START_SECONDS, start + LONGEST_START):
            words = place.server.last_words()
            place.server.stop()
            raise UserError(f"the Prefect server did not come up; {place.home}/server.log ends with\n{words}")
        time.sleep(0.2)
    told = "runs already" if runs else f"started; its database is in {place.home_in_words}"
    say(f"server       {place.page} {told}")


def _once(daemon: Daemon) -> str:
    if daemon.running():
        return "runs already"
    daemon.start()
    return "started"


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _deploy(place: Site) -> None:
    # Without RSD_WORKSPACE, which `prefect deploy` would fill in for good: each worker has its own.
    environment = {key: value for key, value in place.environment.items() if key != "RSD_WORKSPACE"}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        command, cwd=place.project, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise UserError(f"`prefect deploy --all` failed:\n{(done.stdout + done.stderr).strip()}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.operate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("do", choices=["start", "stop"])
    with one_sentence():
        {"start": start, "stop": stop}[parser.parse_args(arguments).do](site(Path()))


if __name__ == "__main__":
    main()
