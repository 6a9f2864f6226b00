"""Start and stop a Prefect server with all deployments and a worker on this machine."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from pipelines.gpus import create_limits, visible_gpus
from pipelines.server.automations import create_automations, create_pool, deployments, take_up_lost_runs
from pipelines.server.daemons import POOL, Daemon, Site
from rsd.machine.errors import UserError

LOST_SECONDS = 150
"""A run without a heartbeat for so long is dead. It sends one every 30 s (prefect.yaml)."""
START_SECONDS = 180.0
"""A server that makes no progress for so long will not come up."""
LONGEST_START = 1200.0
"""For one that makes progress: on a busy machine, a start of 20 s takes minutes."""


def start(place: Site, say: Callable[[str], None] = print) -> None:
    """Start each process that does not run yet; `UserError` if the server does not come up."""
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
    before = place.server.progress()
    start = changed = time.monotonic()
    while not answers(place):
        now = time.monotonic()
        if before != (before := place.server.progress()):
            changed = now
        if not place.server.running() or now > min(changed + START_SECONDS, start + LONGEST_START):
            log = place.home / "server.log"
            lines = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            place.server.stop()
            raise UserError(f"the Prefect server did not come up; {log} ends with\n{lines}")
        time.sleep(0.2)
    outcome = "runs already" if runs else f"started; its database is in {place.home_in_words}"
    say(f"server       {place.page} {outcome}")


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
    # Without RSD_WORKSPACE: `prefect deploy` would fix its value for all workers, but each has its own.
    environment = {key: value for key, value in place.environment.items() if key != "RSD_WORKSPACE"}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        command, cwd=place.project, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise UserError(f"`prefect deploy --all` failed:\n{(done.stdout + done.stderr).strip()}")
