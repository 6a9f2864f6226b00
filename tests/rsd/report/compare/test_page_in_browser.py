"""The comparison as a browser sees it."""

from pathlib import Path

import pytest

from rsd.report.compare.page import write_page
from tests.rsd.report.test_page_in_browser import CHROMIUM, Tab, tab

from .conftest import better_by, on_another_machine

__all__ = ["tab"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_three_runs_draw_without_complaint_request_or_scroll(
    tab: Tab, make_run, tmp_path: Path, width: int, scheme: str
) -> None:
    page = tmp_path / "compare.html"
    runs = [make_run("main"), make_run("a-rather-long-name-of-an-experiment", better_by(0.5))]
    write_page(page, [*runs, make_run("other", on_another_machine)])
    tab.open(page, width=width, scheme=scheme)
    drawn = tab.run("document.querySelectorAll('.chart svg').length")
    assert drawn == tab.run("document.querySelectorAll('script[data-chart]').length") >= 4
    assert tab.complaints() == []
    assert tab.requests() == [page.as_uri()]
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert page.stat().st_size < 5_000_000
