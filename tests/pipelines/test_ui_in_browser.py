"""What a person sees in Prefect's own UI: headless Chromium on the real server."""

import time

import pytest
from prefect import get_client
from prefect.client.schemas.objects import Artifact

from pipelines.server.daemons import Site
from tests.rsd.report.test_page_in_browser import CHROMIUM, Tab, tab

__all__ = ["tab"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]
LOADED = "[...document.querySelectorAll('main img, img')].filter(one => one.naturalWidth > 300).length"


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
    contents = {
        "verdict": f"{LOADED} === 1 && document.body.innerText.includes('Test top-1')",
        "curves": f"{LOADED} >= 3",
        "latency": f"{LOADED} === 1 && document.body.innerText.includes('p99')",
        "pareto": f"{LOADED} === 1",
        "metrics": "document.body.innerText.includes('merge.json')",
        "parity": "document.body.innerText.includes('same first class, %')",
        "report": "!!document.querySelector('a[href=\"http://127.0.0.1:1/report.html\"]')",
        "progress-distill-rsd-0": "document.body.innerText.includes('17216/35840')",
    }
    for key, holds in contents.items():
        visit(tab, prefect_site, f"/artifacts/artifact/{artifacts[key].id}", holds)


def test_a_deployment_is_a_form_with_typed_fields(tab: Tab, prefect_worker: Site) -> None:
    with get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("nightly/default")
    visit(tab, prefect_worker, f"/deployments/deployment/{nightly.id}/run", "document.body.innerText.includes('gates')")

    shown = tab.run("document.body.innerText")
    assert "the flow stops where a metric is worse than the last release by more than its margin" in shown
    assert "Margin" in shown
    assert "Which is better" in shown
    assert tab.run("document.querySelectorAll('input[type=number]').length") >= 1
