"""The package as it is installed, under the oldest Python that it says it takes, without the project beside it.

Once with the newest version of everything that it needs, once with the lowest that it says it takes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .serving import ask, process

OLDEST = "3.10"
PACKAGE = Path(__file__).parents[3] / "deploy" / "edge"
pytestmark = pytest.mark.slow


def oldest() -> str | None:
    """A Python of that version: on the PATH, or one that pyenv keeps off it."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{OLDEST}*/bin/python{OLDEST}"))
    for python in [shutil.which(f"python{OLDEST}"), *map(str, pyenv)]:
        if python and subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
            return python
    return None


def lowest() -> list[str]:
    """The lowest version of each of its dependencies."""
    match = re.search(r"^dependencies = \[(.*?)\]", (PACKAGE / "pyproject.toml").read_text(), re.M | re.S)
    assert match
    return [f"{name}=={version}" for name, version in re.findall(r'"(\w+)>=([\d.]+)', match[1])]


@pytest.fixture(scope="module", params=["newest", "lowest"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    interpreter = oldest()
    if interpreter is None:
        pytest.skip(f"no Python {OLDEST} here")
    folder = tmp_path_factory.mktemp("oldest")
    subprocess.run([interpreter, "-m", "venv", folder / "venv"], check=True)
    shutil.copytree(PACKAGE, folder / "package", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    python = folder / "venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", folder / "package", *(lowest() if request.param == "lowest" else [])],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"pip cannot install it here: {done.stdout.strip().splitlines()[-1:]}")
    return python


def test_every_command_works_on_the_oldest_python(shared, python, tmp_path, monkeypatch):
    def edge(*arguments: str | Path, status: int = 0) -> str:
        command = [python.with_name("rsd-edge"), "--root", tmp_path / "device", "--keys", shared.pinned, *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "signed by a pinned key" in edge("verify", shared.first)
    assert "expected a signed bundle" in edge("verify", shared.unsigned(), status=1)
    for bundle in (shared.first, shared.second):
        edge("install", bundle)
        edge("activate")
    image = shared.first / "golden" / "files" / "wide.jpg"
    assert "wide.jpg: " in edge("predict", image)
    assert "p99" in edge("bench", "--samples", "20")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "path", [])
    with process(tmp_path / "device") as (address, _):
        before = json.loads(ask(address, "POST", "/v1/classify", image.read_bytes())[2])
        metrics = ask(address, "GET", "/metrics")[2].decode()
        assert 'rsd_edge_requests_total{code="200",route="classify"} 1.0\n' in metrics
        assert "_created" not in metrics
        assert "tiny-1: current again" in edge("rollback", "--server", f"http://{address}", "--window", "2")
        after = json.loads(ask(address, "POST", "/v1/classify", image.read_bytes())[2])
    assert (before["release"], after["release"]) == (2, 1)
    assert np.isclose(sum(label["probability"] for label in after["classes"]), 1)
