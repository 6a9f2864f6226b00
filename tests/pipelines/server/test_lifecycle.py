"""Where `make server` puts things, and what it refuses."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from pipelines.server import daemons, lifecycle
from pipelines.server.daemons import Daemon, Site, site
from rsd.machine.errors import UserError
from tests.pipelines.conftest import PROJECT, wait_until


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_SERVER_API_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_state_lies_in_ignored_folder_or_prefect_home(
    nothing_set: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site(tmp_path).home == tmp_path / ".prefect"
    assert "/.prefect/" in (PROJECT / ".gitignore").read_text()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    assert site(tmp_path).home == tmp_path / "mine"


def test_a_foreign_server_is_used_and_ours_recognised(
    nothing_set: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert site(tmp_path).elsewhere is None
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    assert site(tmp_path).environment["PREFECT_API_URL"] == "https://prefect.example/api"
    with pytest.raises(UserError, match="no answer from https://prefect.example/api; correct PREFECT_API_URL"):
        monkeypatch.setattr(lifecycle, "answers", lambda _: False)
        lifecycle.start_server(site(tmp_path))


def test_what_the_user_has_set_stands(nothing_set: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site(tmp_path).environment["PREFECT_CLIENT_MAX_RETRIES"] == "7"
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "3")
    assert site(tmp_path).environment["PREFECT_CLIENT_MAX_RETRIES"] == "3"


def test_a_taken_port_is_refused_with_a_sentence(nothing_set: None, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"expected port {port} to be free, .* set PREFECT_SERVER_API_PORT"):
            lifecycle.start_server(Site(tmp_path, tmp_path, port, elsewhere=None))


@pytest.mark.parametrize("gets_on", [True, False])
def test_only_a_starting_server_with_progress_is_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gets_on: bool
) -> None:
    monkeypatch.setattr(lifecycle, "START_SECONDS", 2.0)
    monkeypatch.setattr(daemons, "STOP_SECONDS", 1)
    place = Site(tmp_path, tmp_path, 1, elsewhere=None)
    says = (
        "import time\nwhile True: print('.', flush=True); time.sleep(0.1)" if gets_on else "import time; time.sleep(60)"
    )
    monkeypatch.setattr(Site, "server", Daemon("server", [sys.executable, "-c", says], tmp_path, os.environ))
    up_at = time.monotonic() + 6
    monkeypatch.setattr(lifecycle, "answers", lambda _: time.monotonic() > up_at)
    try:
        if gets_on:
            lifecycle.start_server(place, say=lambda _: None)
        else:
            with pytest.raises(UserError, match="the Prefect server did not come up; "):
                lifecycle.start_server(place, say=lambda _: None)
    finally:
        place.server.stop()


def test_a_daemon_outlives_its_starter_and_stops_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "STOP_SECONDS", 1)  # its child does not listen
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    sleeper = Daemon("sleeper", [sys.executable, "-c", f"{child}; time.sleep(60)"], tmp_path, os.environ)
    again = f"Daemon('sleeper', {sleeper.command!r}, Path({str(tmp_path)!r}), os.environ).start()"
    start = f"import os\nfrom pathlib import Path\nfrom pipelines.server.daemons import Daemon\n{again}"
    subprocess.run([sys.executable, "-c", start], check=True)
    process = sleeper.running()
    assert process is not None
    wait_until(lambda: len(process.children()) == 1, 10)
    (child_process,) = process.children()

    assert sleeper.stop()
    assert sleeper.running() is None
    assert not psutil.pid_exists(child_process.pid) or child_process.status() == psutil.STATUS_ZOMBIE
    assert not sleeper.stop()


def test_a_reused_process_number_is_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "worker.json").write_text(f'{{"process": {os.getpid()}, "started": 1.0}}')

    assert Daemon("worker", [], tmp_path, {}).running() is None
