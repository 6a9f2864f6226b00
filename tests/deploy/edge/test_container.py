"""What the container files promise; no image is built here."""

import re
import tomllib
from pathlib import Path

import pytest
from rsd_edge import cli

PACKAGE = Path(__file__).parents[3] / "deploy" / "edge"
FILES = ["Containerfile", "Containerfile.jetson"]


def instructions(name: str) -> dict[str, str]:
    """The last one of each kind, with continued lines joined."""
    text = re.sub(r"\\\n", " ", (PACKAGE / name).read_text())
    return dict(re.findall("^([A-Z]+) (.*)$", text, re.M))


def dependencies() -> list[str]:
    return [*tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["dependencies"]]


@pytest.mark.parametrize("name", FILES)
def test_the_image_serves_unprivileged_with_a_health_check(name: str) -> None:
    lines = instructions(name)
    assert int(lines["USER"].split(":")[0]) >= 1000
    assert "/v2/health/ready" in lines["HEALTHCHECK"]
    assert lines["ENTRYPOINT"] == '["rsd-edge"]'
    cli._parser().parse_args([word.strip(' "') for word in lines["CMD"].strip("[]").split(",")])
    assert re.search(r":[\w.-]*\d", lines["FROM"])  # a version, not whatever is latest


def test_its_versions_are_those_that_are_tested() -> None:
    tested = (PACKAGE.parents[1] / "constraints.txt").read_text().splitlines()
    chosen = (PACKAGE / "constraints.txt").read_text().splitlines()
    assert set(chosen) <= set(tested)
    assert {requirement.split(">=")[0] for requirement in dependencies()} <= {line.split("==")[0] for line in chosen}


def test_the_jetson_gets_what_the_package_depends_on() -> None:
    # What NVIDIA's wheel of ONNX Runtime is and brings is not asked of PyPI.
    needed = {name for name in dependencies() if not name.startswith(("numpy", "onnxruntime"))}
    assert needed < {*re.findall(r'"([^" ]+)"', instructions("Containerfile.jetson")["RUN"])}
