"""From one choice of params to another and back: the run ends where it began."""

import re
import shutil

import pytest

from rsd.machine.yaml_file import read_yaml
from tests.stages.conftest import Project


@pytest.fixture
def tracked(reproduced, tmp_path):
    """A copy of the reproduced project with its git and DVC."""
    shutil.copytree(reproduced.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def reproducible(project: Project) -> dict:
    """The entries of dvc.lock, without the stages whose numbers are this machine's at this moment."""
    graph = read_yaml(project.folder / "dvc.yaml")["stages"]
    lock = read_yaml(project.folder / "dvc.lock")["stages"]
    measured = {name for name, stage in graph.items() if stage.get("meta", {}).get("measured")}
    return {name: entry for name, entry in lock.items() if name.split("@")[0] not in measured}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "there", "back"),
    [("seeds", [0, 1, 2], [0]), ("methods", ["scratch", "rsd", "kd"], ["scratch", "rsd"])],
)
def test_there_and_back_ends_where_it_began(tracked, key, there, back):
    before = reproducible(tracked)
    students = {path.name for path in (tracked.out / "students").iterdir()}
    shipped = (tracked.out / "shipped.json").read_bytes()
    tracked.edit("params.yaml", **{key: there})
    tracked.run("dvc", "repro", "evaluate", "convert")
    assert {path.name for path in (tracked.out / "students").iterdir()} > students
    tracked.edit("params.yaml", **{key: back})
    stages = re.findall(r"Running stage '(.+?)'", tracked.run("dvc", "repro", "evaluate", "convert").stdout)
    after = reproducible(tracked)
    assert {name: after[name] for name in before} == before
    assert not [name for name in stages if name.startswith(("distill", "evaluate", "export", "convert"))]
    assert {path.name for path in (tracked.out / "students").iterdir()} == students
    assert (tracked.out / "shipped.json").read_bytes() == shipped
