"""The documentation site: built without a warning, whole, and needing no network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_needs_no_network(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//[^\s>]+|<link[^>]* href=\"?https?://[^>]+",
                            page.read_text())  # fmt: skip
        assert not loaded, f"{page.name}: {loaded}"


def test_every_module_and_equation_is_shown(site):
    modules = [file for file in (ROOT / "rsd").rglob("*.py") if not file.stem.startswith("_")]
    for file in modules:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        assert name in (site / "api" / f"{name}.html").read_text()
    method = (site / "method.html").read_text()
    equations = (ROOT / "docs" / "method.md").read_text().count("```math\n")
    assert method.count('display="block"') == equations > 0
    assert "$`" not in method
