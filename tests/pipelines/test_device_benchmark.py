"""Latency over time: slower rows alert, noisy rows are marked."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from pipelines import device_benchmark as module
from pipelines.device_benchmark import device_benchmark
from rsd.machine.errors import UserError
from rsd.report import trend
from tests.pipelines.conftest import ToyRepo
from tests.rsd.run.small import CHOICE

pytestmark = pytest.mark.slow

STAGE = """
stages:
  benchmark:
    cmd: python timing.py
    deps: [timing.py]
    outs: [out/params/run.json, out/benchmark/latency.json]
    meta: {alone: true, measured: true}
"""
# The clock is a file that DVC knows nothing of, as a real one is.
TIMING = """
import json
from pathlib import Path
p50, noisy = json.loads(Path("clock").read_text())
row = {"file": "model.onnx", "precision": "fp32", "runtime": "onnxruntime", "threads": 1, "scenario": "single stream",
       "batch": 1, "status": "measured", "samples": 700, "p50_ms": p50, "p99_ms": 2 * p50, "noisy": noisy}
device = {"cpu": {"name": "a CPU", "logical_cores": 2}, "gpus": []}
Path("out/benchmark").mkdir(parents=True, exist_ok=True)
record = {"device": device, "conditions": {}, "rows": [row],
          "options": {"min_seconds": 1, "min_samples": 1, "rounds": 1}}
Path("out/benchmark/latency.json").write_text(json.dumps(record))
Path("out/params").mkdir(parents=True, exist_ok=True)
Path("out/params/run.json").write_text(Path("choice.json").read_text())
"""


class Device:
    """A workspace whose benchmark takes as long as it is set to."""

    def __init__(self, repo: ToyRepo) -> None:
        self.folder = repo.path
        (repo.path / "dvc.yaml").write_text(STAGE)
        (repo.path / "timing.py").write_text(TIMING)
        (repo.path / "choice.json").write_text(json.dumps(CHOICE))
        subprocess.run(["git", "add", "."], cwd=repo.path, check=True)
        commit = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a device"]
        subprocess.run(commit, cwd=repo.path, check=True)

    def time(self, p50: float, *, noisy: bool = False, notify: str | None = None) -> str:
        (self.folder / "clock").write_text(json.dumps([p50, noisy]))
        return str(device_benchmark(root=str(self.folder), margin=0.1, notify=notify))


@pytest.fixture(scope="module")
def usual(
    tmp_path_factory: pytest.TempPathFactory,
    make_dvc_repo: Callable[[Path], ToyRepo],
    prefect_server: dict[str, str],
) -> Iterator[Device]:
    """A device with three quiet runs of 1 ms behind it."""
    device = Device(make_dvc_repo(tmp_path_factory.mktemp("device") / "project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUSY_LOAD", 1e9)
        for p50 in (1.0, 1.01, 0.99):
            assert "fewer than 3 quiet runs before" in device.time(p50) or p50 == 0.99
        yield device


@pytest.fixture
def alerts(prefect_server: dict[str, str]) -> Iterator[list[str]]:
    """What arrives at the web hook of the notification block `fleet`."""
    bodies: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        block = CustomWebhookNotificationBlock(
            name="fleet",
            url=f"http://127.0.0.1:{server.server_port}/",
            json_data={"title": "{{subject}}", "text": "{{body}}"},
        )
        block.save("fleet", overwrite=True, _sync=True)  # type: ignore[call-arg]
        yield bodies
        server.shutdown()


def test_a_slower_row_fails_the_run_and_alerts(usual: Device, alerts: list[str]) -> None:
    with pytest.raises(UserError, match=r"at most 10% longer than the usual 1 ms, found 1.3 ms \(\+30%\) on a CPU"):
        usual.time(1.3, notify="custom-webhook/fleet")

    assert len(alerts) == 1
    assert json.loads(alerts[0])["title"] == "project has become slower"
    assert "found 1.3 ms" in json.loads(alerts[0])["text"]


def test_a_noisy_run_is_marked_and_alerts_nobody(usual: Device, alerts: list[str]) -> None:
    summary = usual.time(5.0, noisy=True, notify="custom-webhook/fleet")

    assert "1 noisy and not judged; measure again on a quiet machine" in summary
    assert alerts == []


def test_the_history_outlives_dvc_repro_and_is_drawn(usual: Device) -> None:
    table = usual.folder / "history" / "latency.csv"
    before = trend.read(table)
    usual.time(1.0)

    assert trend.read(table)[:-1] == before
    assert "<svg" in (usual.folder / "history" / "latency.svg").read_text()
    with get_client(sync_client=True) as client:
        assert any(one.key == "latency-trend" and "data:image" in str(one.data) for one in client.read_artifacts())


def test_an_unknown_block_is_refused_before_timing(usual: Device) -> None:
    before = trend.read(usual.folder / "history" / "latency.csv")

    with pytest.raises(UserError, match="expected a notification block slack-webhook/nobody"):
        usual.time(1.0, notify="slack-webhook/nobody")
    assert trend.read(usual.folder / "history" / "latency.csv") == before


def test_a_busy_machine_is_timed_after_a_wait(usual: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = [9.0, 9.0, 0.1]
    monkeypatch.setattr(module, "BUSY_LOAD", 0.5)
    monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(module.os, "getloadavg", lambda: (loads.pop(0), 0, 0))
    monkeypatch.setattr(module.quiet, "retry_delay_seconds", [0.1] * 4)
    assert "0 slower" in usual.time(1.0)
    assert loads == []

    loads[:] = [9.0] * 5
    assert "0 slower" in usual.time(1.0)
