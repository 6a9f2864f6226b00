"""The server's page as a browser sees it: headless Chromium, driven over its debugging protocol."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rsd.report.test_page_in_browser import CHROMIUM, Tab, tab

from .serving import LABELS, NAME, Tiny, always, images, served

__all__ = ["tab"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `apt-get install chromium`"),
]
TOKEN = "0123456789abcdef"


@pytest.fixture
def address() -> Iterator[str]:
    with served(always(Tiny(release=7))) as address:
        yield address


def visit(tab: Tab, address: str, *, width: int = 900) -> None:
    tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    tab.send("Page.navigate", url=f"http://{address}/")


def until(tab: Tab, script: str) -> None:
    deadline = time.monotonic() + 30
    while not tab.run(script):
        assert time.monotonic() < deadline, f"{script}: {tab.run('document.body.innerText')}, {tab.complaints()}"
        time.sleep(0.05)


def picture(folder: Path) -> Path:
    Image.fromarray(images(1)[0]).save(folder / "a bird.png")
    return folder / "a bird.png"


def drop(tab: Tab, file: Path) -> None:
    """Drag a file from the desktop onto the page, as the browser's own input events."""
    middle = "(r => [r.left + r.width / 2, r.top + r.height / 2])"
    box = tab.run(f"{middle}(document.getElementById('drop').getBoundingClientRect())")
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        tab.send("Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data)


def test_the_page_shows_status_and_contacts_nobody_else(tab: Tab, address: str) -> None:
    visit(tab, address)
    until(tab, "document.getElementById('health').textContent === 'ready'")
    shown = tab.run("document.body.innerText")
    assert NAME in shown
    assert tab.run("document.getElementById('release').textContent") == "7"
    assert tab.run("document.getElementById('runs').textContent") == "fp32, onnxruntime, CPU, 1 thread"
    assert tab.run("document.getElementById('p50').textContent") == "no request yet"
    assert tab.complaints() == []
    assert all(url.startswith(f"http://{address}/") for url in tab.requests())


def test_a_dropped_image_shows_the_model_s_classes(tab: Tab, address: str, tmp_path: Path) -> None:
    visit(tab, address)
    until(tab, "document.getElementById('health').textContent === 'ready'")
    drop(tab, picture(tmp_path))
    until(tab, "document.querySelectorAll('#classes li').length > 0")
    logits = Tiny(release=7).infer(images(1))[0].astype(float)
    shares = np.exp(logits) / np.exp(logits).sum()
    lines = tab.run("[...document.querySelectorAll('#classes li')].map(l => l.innerText.replace(/\\s+/g, ' ').trim())")
    assert lines == [f"{LABELS[index]} {100 * shares[index]:.1f} %" for index in np.argsort(-shares)]
    assert tab.run("document.getElementById('message').textContent").startswith("a bird.png: ")
    assert tab.run("document.getElementById('preview').naturalWidth") == images(1).shape[2]
    until(tab, "document.getElementById('p50').textContent.endsWith(' ms')")
    assert tab.complaints() == []


def test_a_wrong_file_shows_the_server_s_sentence(tab: Tab, address: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    visit(tab, address)
    until(tab, "document.getElementById('health').textContent === 'ready'")
    drop(tab, tmp_path / "notes.txt")
    until(
        tab,
        "document.getElementById('message').textContent.startsWith('expected a JPEG, PNG, WebP, BMP or TIFF image')",
    )
    assert tab.run("document.querySelectorAll('#classes li').length") == 0


def test_the_page_works_once_given_the_token(tab: Tab, tmp_path: Path) -> None:
    with served(always(Tiny()), token=TOKEN) as address:
        visit(tab, address)
        until(tab, "document.getElementById('health').textContent === 'token needed'")
        assert not tab.run("document.getElementById('login').hidden")
        tab.run("document.getElementById('token').focus()")
        tab.send("Input.insertText", text=TOKEN)
        tab.run("document.getElementById('token').blur()")
        until(tab, "document.getElementById('health').textContent === 'ready'")
        drop(tab, picture(tmp_path))
        until(tab, "document.querySelectorAll('#classes li').length > 0")


def test_it_says_when_the_server_is_gone(tab: Tab) -> None:
    with served(always(Tiny())) as address:
        visit(tab, address)
        until(tab, "document.getElementById('health').textContent === 'ready'")
    until(tab, "document.getElementById('health').textContent === 'not reachable'")


@pytest.mark.parametrize("width", [320, 390, 900])
def test_it_never_scrolls_sideways(tab: Tab, address: str, tmp_path: Path, width: int) -> None:
    visit(tab, address, width=width)
    until(tab, "document.getElementById('health').textContent === 'ready'")
    drop(tab, picture(tmp_path))
    until(tab, "document.querySelectorAll('#classes li').length > 0")
    assert tab.run("document.documentElement.scrollWidth") <= width
    tab.screenshot(tmp_path / "page.png")
