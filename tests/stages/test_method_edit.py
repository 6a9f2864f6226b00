"""An edit of one method's code retrains the students of that method and no others."""

import pytest

from tests.stages.conftest import Project, copy_of_the_project


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Project:
    project = copy_of_the_project(tmp_path_factory.mktemp("project"))
    project.edit("params.yaml", methods=["scratch", "rsd", "kd", "ofa"])
    project.run("dvc", "repro", "distill")
    return project


@pytest.mark.slow
@pytest.mark.parametrize(("method", "holders"), [("kd", {"kd"}), ("rsd", {"rsd", "ofa"})])
def test_an_edited_method_makes_its_own_cells_stale(distilled, method, holders):
    file = distilled.folder / "rsd" / "methods" / f"{method}.py"
    before = file.read_text()
    file.write_text(before + "EDITED = True\n")
    distilled.run("dvc", "repro", "params")
    status = distilled.run("dvc", "status", "distill").stdout
    file.write_text(before)
    stale = {line.rstrip(":") for line in status.splitlines() if line.startswith("distill@")}
    assert stale == {f"distill@{name}-0" for name in holders}
