"""The processes that `make server` runs on this machine, their files and their addresses.

Prefect has `prefect server start --background`, but not for workers, without a log, and after a crash it takes the
server for running until somebody stops it. systemd is not everywhere: not in a container, nor on many clusters.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from pipelines.server.connection import RETRIES
from rsd.machine.files import read_json, write_json
from rsd.run.paths import Run

POOL = "rsd"
PORT = 4200
STOP_SECONDS = 60.0
"""For a clean end: a stage has ten seconds to save its state, and Prefect thirty to end the run."""


@dataclass(frozen=True)
class Daemon:
    """A process that outlives the command that started it.

    `home`/NAME.json identifies the process, NAME.log holds its output.
    """

    name: str
    command: list[str]
    home: Path
    environment: Mapping[str, str]

    def running(self) -> psutil.Process | None:
        """The process; None if it has ended, even if another process has its number by now."""
        file = self.home / f"{self.name}.json"
        try:
            record = read_json(file)
            process = psutil.Process(record["process"])
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            return process if alive and abs(process.create_time() - record["started"]) < 1 else None
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
        """End it and its children: by SIGTERM, after `STOP_SECONDS` by SIGKILL. Returns False if it did not run."""
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

    def progress(self) -> tuple[int, int]:
        """Bytes of its log and seconds of computing so far. They grow as long as it works."""
        process = self.running()
        family = [process, *process.children(recursive=True)] if process else []
        seconds = 0.0
        for one in family:
            with suppress(psutil.Error):
                seconds += sum(one.cpu_times()[:2])
        return (self.home / f"{self.name}.log").stat().st_size, int(seconds)


@dataclass(frozen=True)
class Site:
    """The project's folder, the folder of the server's state, and the addresses."""

    project: Path
    home: Path
    port: int
    elsewhere: str | None
    """The API of a server that runs elsewhere; None: one is started here."""

    @property
    def page(self) -> str:
        return (self.elsewhere or f"http://127.0.0.1:{self.port}/api").removesuffix("/api")

    @property
    def home_in_words(self) -> Path:
        return self.home.relative_to(self.project) if self.home.is_relative_to(self.project) else self.home

    @property
    def files(self) -> str:
        """The address of `out/` for a browser on this machine."""
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of each process. Variables that the user has set are kept."""
        here = str(Path(sys.executable).parent)
        return {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Prefect's default is memory: after a restart nobody would free a limit that was held before.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_CLIENT_MAX_RETRIES": str(RETRIES),
            # Prefect's default is 10: every run would wait so long, and a run that is resumed once more.
            "PREFECT_WORKER_QUERY_SECONDS": "2",
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
        where = [str(self.port + 1), "--bind", "127.0.0.1", "--directory", str(Run.of(self.project).folder)]
        return self.daemon("reports", "-m", "http.server", *where)


def site(project: Path) -> Site:
    """The site that PREFECT_HOME, PREFECT_SERVER_API_PORT and PREFECT_API_URL describe."""
    home = Path(os.environ.get("PREFECT_HOME") or project / ".prefect").expanduser().resolve()
    port = int(os.environ.get("PREFECT_SERVER_API_PORT") or PORT)
    api = (os.environ.get("PREFECT_API_URL") or "").rstrip("/")
    ours = {f"http://{host}:{port}/api" for host in ("127.0.0.1", "localhost")}
    return Site(project.resolve(), home, port, elsewhere=None if api in ours or not api else api)
