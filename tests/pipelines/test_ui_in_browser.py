"""What a person sees in Prefect's own UI: headless Chromium on the real server."""

import time
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import Artifact

from pipelines.artifacts import OUT_URL, publish
from pipelines.operate import Site
from pipelines.outcome import StageRun
from pipelines.progress import Progress
from tests.pipelines.conftest import ToyRepo
from tests.rsd.report.conftest import write_records
from tests.rsd.report.test_page_in_browser import CHROMIUM, Tab, tab

__all__ = ["tab"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]
LOADED = "[...document.querySelectorAll('main img, img')].filter(one => one.naturalWidth > 300).length"


@pytest.fixture
def artifacts(
    prefect_server: dict[str, str], dvc_repo: ToyRepo, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Artifact]:
    """What a run with results leaves, by key."""
    write_records(dvc_repo.path / "out")
    (dvc_repo.path / "out" / "report.html").write_text("<h1>the report</h1>")
    monkeypatch.setenv(OUT_URL, "http://127.0.0.1:1")

    @flow
    def leaves() -> UUID:
        from prefect.runtime import flow_run

        progress = Progress("distill@rsd-0")
        progress.follow("rsd-0:  48%|####8     | 17216/35840 [00:10<00:10, 1719.82 images/s]")
        progress.end(good=False)
        publish(dvc_repo.path, [StageRun("evaluate", "ran", 1.0)])
        return UUID(flow_run.id)

    run = leaves()
    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    return {str(one.key): one for one in found if one.flow_run_id == run}


def visit(tab: Tab, place: Site, path: str, until: str) -> None:
    tab.send("Emulation.setDeviceMetricsOverride", width=1200, height=1000, deviceScaleFactor=1, mobile=False)
    tab.send("Page.navigate", url=f"{place.page}{path}")
    deadline = time.monotonic() + 60
    while not tab.run(until):
        assert time.monotonic() < deadline, f"{path}: {tab.run('document.body.innerText')}"
        time.sleep(0.2)


def test_tables_pictures_progress_and_the_report_are_shown(
    tab: Tab, prefect_site: Site, artifacts: dict[str, Artifact]
) -> None:
    expected = {"stages", "verdict", "parity", "curves", "report", "progress-distill-rsd-0"}
    assert expected <= artifacts.keys()
    seen = {
        "verdict": f"{LOADED} === 1 && document.body.innerText.includes('Test top-1')",
        "curves": f"{LOADED} >= 3",
        "parity": "document.body.innerText.includes('same first class, %')",
        "report": "!!document.querySelector('a[href=\"http://127.0.0.1:1/report.html\"]')",
        "progress-distill-rsd-0": "document.body.innerText.includes('17216/35840')",
    }
    for key, holds in seen.items():
        visit(tab, prefect_site, f"/artifacts/artifact/{artifacts[key].id}", holds)


def test_a_deployment_is_a_form_with_typed_fields_and_words(tab: Tab, prefect_worker: Site) -> None:
    with get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("nightly/default")
    visit(tab, prefect_worker, f"/deployments/deployment/{nightly.id}/run", "document.body.innerText.includes('gates')")

    shown = tab.run("document.body.innerText")
    assert "the flow stops where a metric is worse than the last release by more than its margin" in shown
    assert "Margin" in shown
    assert "Which is better" in shown
    assert tab.run("document.querySelectorAll('input[type=number]').length") >= 1


def test_pictures_are_small_enough_for_the_database(artifacts: dict[str, Artifact]) -> None:
    assert sum(len(str(one.data)) for one in artifacts.values()) < 1_000_000
