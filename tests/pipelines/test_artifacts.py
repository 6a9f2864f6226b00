"""What a run leaves in Prefect, whoever looks at it: a failure to publish is a warning."""

import socket
from pathlib import Path

import pytest
from prefect.client.schemas.objects import Artifact

from pipelines.artifacts import OUT_URL, SERVED
from tests.pipelines.conftest import left_by


def test_a_run_leaves_artifacts_small_enough_to_store(
    artifacts: dict[str, Artifact],
) -> None:
    pictures = {"verdict", "latency", "curves", "pareto"}
    assert artifacts.keys() == {"stages", "metrics", "parity", "report", "progress-distill-rsd-0", *pictures}
    assert all("data:image/svg+xml;base64," in str(artifacts[key].data) for key in pictures)
    assert "merge.json" in str(artifacts["metrics"].data)
    assert artifacts["report"].data == "[out/report.html](http://127.0.0.1:1/report.html)"
    assert sum(len(str(one.data)) for one in artifacts.values()) < 1_000_000


def test_an_unserved_report_is_a_path_without_link(
    prefect_server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUT_URL, "http://127.0.0.1:1")
    monkeypatch.setenv(SERVED, str(tmp_path / "another"))
    report = tmp_path / "mine" / "out" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<h1>the report</h1>")

    artifacts = left_by(tmp_path / "mine")

    assert artifacts["report"].data == f"`{report}` on {socket.gethostname()}"
