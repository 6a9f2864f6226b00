"""A sweep over workers that share nothing but git and a DVC remote: a folder, an S3-compatible server, SSH."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from pipelines.git import experiments
from pipelines.process_group import GRACE_SECONDS
from pipelines.sweep import places
from rsd.machine.errors import UserError
from tests.pipelines.conftest import PROJECT, ToyRepo, wait_until
from tests.pipelines.sweep.sweep_project import SweepRepo

pytestmark = pytest.mark.slow
pytest.importorskip("prefect_dask", reason="needs pip install 'rsd[dask]'")

GRID = ["method.rsd.weight=0.1,0.2", "--seeds", "0", "--name", "wide"]
RUNS_ONCE = ["distill-rsd-0 0.1", "distill-rsd-0 0.2", "distill-scratch-0 0", "evaluate", "evaluate", "teacher"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone, with its children, when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            try:
                children = psutil.Process(process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                children = []
            for one in [*children, process]:
                one.kill()
            process.wait()


class Cluster:
    """A Dask scheduler and workers, each a process in a folder of its own that sees nothing of the project."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

    def worker(self, name: str, **environment: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        dask = [sys.executable, "-m", "dask", "worker", self.address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
        return started([*dask, "--name", name], self.folder / name, **environment)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    # It unpickles the units, too, so it needs this project's code and no other clone's.
    with started(
        [sys.executable, "-m", "dask", "scheduler", *options], tmp_path / "scheduler", PYTHONPATH=str(PROJECT)
    ):
        yield Cluster(tmp_path, f"tcp://127.0.0.1:{port}")


@pytest.fixture
def repo(tmp_path: Path, make_dvc_repo: Callable[[Path], ToyRepo]) -> SweepRepo:
    """The project with a git remote `hub`."""
    repo = SweepRepo(tmp_path / "project", make_dvc_repo)
    repo.git("init", "-q", "--bare", str(tmp_path / "hub.git"))
    repo.git("remote", "add", "hub", f"file://{tmp_path}/hub.git")
    return repo


def publish(repo: SweepRepo, url: str, **options: str) -> None:
    """Give the project a DVC remote `store`, and push it."""
    repo.dvc("remote", "add", "-q", "store", url)
    for name, value in options.items():
        repo.dvc("remote", "modify", "-q", "store", name, value)
    repo.git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "A remote")
    repo.git("push", "-q", "hub", "HEAD")


def sweep(repo: SweepRepo, cluster: Cluster, server: dict[str, str], **more: str) -> subprocess.Popen[str]:
    place = ["--dask", cluster.address, "--git-remote", "hub", "--dvc-remote", "store"]
    return repo.sweep(server, *GRID, *place, **more)


def finish(process: subprocess.Popen[str]) -> str:
    shown = process.communicate(timeout=300)[0]
    assert process.returncode == 0, shown
    return shown


def check(repo: SweepRepo) -> None:
    """Every cell is an experiment here, and its outputs come from the remote."""
    assert len([name for name in experiments(repo.path) if name.startswith("wide-0.")]) == 2
    [name] = [name for name in experiments(repo.path) if name.startswith("wide-0.2-")]
    shutil.rmtree(repo.path / ".dvc" / "cache", ignore_errors=True)
    repo.git("stash", "-q", "--include-untracked")
    repo.git("checkout", "-q", experiments(repo.path)[name])
    repo.dvc("pull", "-q", "--remote", "store", "evaluate")
    models = json.loads((repo.path / "out/evaluate/models.json").read_text())
    assert {model["model"]: model["top1"] for model in models} == {"scratch-0": 89.0, "rsd-0": 91.0}
    assert (repo.path / "out/sweeps/wide/plot.png").is_file()


def test_a_stopped_sweep_stops_workers_and_resumes(
    repo: SweepRepo, cluster: Cluster, prefect_server: dict[str, str], tmp_path: Path
) -> None:
    publish(repo, str(tmp_path / "store"))
    with cluster.worker("a", **repo.environment(prefect_server, HOLD="teacher")):
        process = sweep(repo, cluster, prefect_server)
        wait_until(lambda: bool(repo.noted("begin")), 180, process)
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=90)[0]

        assert shown.splitlines()[-1] == "error: stopped; run the same command again to continue"
        wait_until(lambda: not psutil.pid_exists(repo.noted("begin")[0]["pid"]), GRACE_SECONDS)
        (repo.seen / "go").touch()
        assert "2 cells: 2 ran" in finish(sweep(repo, cluster, prefect_server))

    assert sorted(line["what"] for line in repo.noted()) == RUNS_ONCE
    assert [line["steps"] for line in repo.noted("begin") if line["what"] == "teacher"] == [0, 7]
    check(repo)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an S3-compatible server with a bucket `sweeps`."""
    moto = pytest.importorskip("moto.server", reason="needs pip install -c constraints.txt -e '.[dev]'")
    boto3 = pytest.importorskip("boto3")
    for name, value in {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)  # DVC reads them there: secrets are in no file of the project
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="sweeps")
    yield url
    server.stop()


def test_one_worker_takes_over_another_through_s3(
    repo: SweepRepo, cluster: Cluster, prefect_server: dict[str, str], s3: str
) -> None:
    publish(repo, "s3://sweeps/store", endpointurl=s3)
    hold = "distill-rsd-0 0.1,distill-rsd-0 0.2"  # whichever it gets

    def held() -> list[dict[str, Any]]:
        return [line for line in repo.noted("begin") if line["what"] in hold and "/lost/" in line["folder"]]

    with (
        cluster.worker("lost", **repo.environment(prefect_server, HOLD=hold)) as lost,
        cluster.worker("other", **repo.environment(prefect_server)),
    ):
        process = sweep(repo, cluster, prefect_server)
        wait_until(lambda: bool(held()), 240, process)
        lost.send_signal(signal.SIGKILL)
        shown = finish(process)

    assert "2 cells: 2 ran" in shown
    # What was done on the lost worker is not done again; its last cell starts anew on the other machine.
    assert sorted(line["what"] for line in repo.noted()) == RUNS_ONCE
    assert [line["what"] for line in repo.noted("begin")].count(held()[0]["what"]) == 2
    check(repo)


def test_a_returning_worker_resumes_its_checkpoint_over_ssh(
    repo: SweepRepo, cluster: Cluster, prefect_server: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("dvc_ssh", reason="needs pip install -c constraints.txt -e '.[ssh]'")
    daemon = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
    if daemon is None:
        pytest.skip("needs sshd: apt-get install openssh-server")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    shutil.copy(keys / "user.pub", keys / "authorized")
    (keys / "authorized").chmod(0o600)
    port = free_port()
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": keys / "host",
        "AuthorizedKeysFile": keys / "authorized",
        "PidFile": keys / "pid",
        "PasswordAuthentication": "no",
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (keys / "config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
    with started([daemon, "-D", "-e", "-f", str(keys / "config")], tmp_path / "sshd"):
        wait_until(lambda: listens(port), 30)
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/store"
        publish(repo, url, keyfile=str(keys / "user"), allow_agent="false")
        held = "distill-rsd-0 0.2"
        with cluster.worker("a", **repo.environment(prefect_server, HOLD=held)) as lost:
            process = sweep(repo, cluster, prefect_server)
            wait_until(lambda: any(line["what"] == held for line in repo.noted("begin")), 240, process)
            lost.send_signal(signal.SIGKILL)
        with cluster.worker("a", **repo.environment(prefect_server)):
            finish(process)
        assert [line["steps"] for line in repo.noted("begin") if line["what"] == held] == [0, 7]
        assert sorted(line["what"] for line in repo.noted()) == RUNS_ONCE
        check(repo)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_cluster_on_this_machine_is_one_word(repo: SweepRepo, prefect_server: dict[str, str]) -> None:
    shown = finish(repo.sweep(prefect_server, *GRID, "--dask", "--jobs", "2"))

    assert "2 cells: 2 ran" in shown
    assert sorted(line["what"] for line in repo.noted()) == RUNS_ONCE
    assert "distributed.worker" not in shown


def test_a_scheduler_without_workers_is_a_sentence(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "WORKERS_SECONDS", 1)

    with (
        pytest.raises(UserError, match=f"expected a Dask scheduler with a worker at {cluster.address}, found: "),
        places.on_dask(cluster.address, None),
    ):
        pass
