"""The page as a browser sees it: headless Chromium, driven over its debugging protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsd.report.page import write_page

from .conftest import page_arguments, write_records

connection = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]


class Tab:
    """One page of a browser, and everything it said or asked for since it was opened."""

    def __init__(self, url: str) -> None:
        self._socket = connection.connect(url, max_size=None)
        self._number = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def run(self, script: str) -> Any:
        return self.send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, page: Path, *, width: int, scheme: str = "light") -> None:
        """Load `page` at a width and wait until it says that its charts are drawn."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + 60
        while self.run("document.documentElement.dataset.charts") != "drawn":
            assert time.monotonic() < deadline, f"the charts were not drawn: {self.complaints()}"
            time.sleep(0.1)

    def complaints(self) -> list[str]:
        """Exceptions, console warnings and errors, and what the browser itself logged, as text."""
        output = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                output.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
            elif event["method"] == "Log.entryAdded":
                output.append(str(params["entry"]["text"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                output.append(" ".join(str(part.get("value")) for part in params["args"]))
        return output

    def requests(self) -> list[str]:
        urls = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def print_pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"]))


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    profile = tmp_path / "profile"
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    switches += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    switches += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    with (tmp_path / "chromium.log").open("wb") as log:
        browser = subprocess.Popen([str(CHROMIUM), *switches], stdout=log, stderr=log, start_new_session=True)
    try:
        yield Tab(_address(profile, browser))
    finally:
        os.killpg(browser.pid, 9)
        browser.wait()


def _address(profile: Path, browser: "subprocess.Popen[bytes]") -> str:
    """The debugging address of the first tab, once the browser has written its port down."""
    import urllib.request

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and browser.poll() is None:
        try:
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            return str(pages[0]["webSocketDebuggerUrl"])
        except (OSError, IndexError):
            time.sleep(0.1)
    raise TimeoutError("Chromium did not open its debugging port within a minute")


@pytest.fixture
def page(out: Path) -> Path:
    write_page(out / "report.html", **page_arguments(out))
    return out / "report.html"


def test_every_chart_draws_without_complaint_or_request(tab: Tab, page: Path) -> None:
    tab.open(page, width=1200)
    drawn = tab.run("document.querySelectorAll('.chart svg').length")
    assert drawn == tab.run("document.querySelectorAll('script[data-chart]').length")
    assert drawn >= 14
    assert tab.complaints() == []
    assert tab.requests() == [page.as_uri()]


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_it_never_scrolls_sideways(tab: Tab, page: Path, width: int) -> None:
    tab.open(page, width=width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    widest = "Math.max(...[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().right))"
    assert tab.run(widest) <= width


def test_charts_follow_the_colour_scheme_and_paper(tab: Tab, page: Path) -> None:
    label = "getComputedStyle(document.querySelector('#chart-accuracy .role-axis-label text')).fill"
    tab.open(page, width=1200, scheme="light")
    light = tab.run(label)
    tab.open(page, width=1200, scheme="dark")
    assert tab.run(label) != light
    tab.send(
        "Emulation.setEmulatedMedia",
        media="print",
        features=[{"name": "prefers-color-scheme", "value": "dark"}],
    )
    assert tab.run(label) == light


def test_every_picture_loads_and_paper_unfolds_all(tab: Tab, page: Path, tmp_path: Path) -> None:
    tab.open(page, width=1200)
    pictures = "[...document.querySelectorAll('.pictures img')].map(one => one.naturalWidth)"
    assert set(tab.run(pictures)) == {16}
    folded = "[...document.querySelectorAll('details')].map(one => one.open)"
    assert tab.run(folded) == [False]
    tab.print_pdf(tmp_path / "page.pdf")
    assert tab.run(folded) == [True]
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_evaluation_alone_is_still_drawn(tab: Tab, tmp_path: Path) -> None:
    write_records(tmp_path / "one", seeds=(0,))
    for name in ("students", "convert", "engines", "benchmark"):
        shutil.rmtree(tmp_path / "one" / name)
    page = tmp_path / "one" / "report.html"
    write_page(page, **page_arguments(tmp_path / "one"))
    tab.open(page, width=390)
    assert tab.complaints() == []
    assert tab.run("document.documentElement.scrollWidth") <= 390
