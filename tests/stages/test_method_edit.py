"""A method is one file: to add one takes no other edit, and an edit of one retrains its own students only."""

import csv
import json
from pathlib import Path

import pytest

from rsd.methods import __file__ as package
from tests.readme import block
from tests.stages.conftest import Project, copy_of_the_project

METHODS = ["scratch", "rsd", "kd", "ofa", "cosine", "rsd+kd"]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Project:
    """A project whose package has one method more; nothing else but params.yaml is edited."""
    project = copy_of_the_project(tmp_path_factory.mktemp("project"))
    assert not Path(package).with_name("cosine.py").exists()
    (project.folder / "rsd" / "methods" / "cosine.py").write_text(block("python", holding="CosineDistiller"))
    project.edit("params.yaml", methods=METHODS)
    project.run("dvc", "repro", "evaluate")
    return project


@pytest.mark.slow
def test_a_method_in_one_file_is_trained(distilled):
    for method, terms in {"cosine": {"cosine"}, "rsd+kd": {"invariance", "redundancy", "kd"}}.items():
        with (distilled.out / "students" / f"{method}-0" / "history.csv").open() as file:
            assert terms <= set(next(csv.reader(file)))
    assert json.loads((distilled.out / "evaluate" / "metrics.json").read_text()).keys() == {"teacher", *METHODS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "holders"), [("kd", {"kd", "rsd+kd"}), ("rsd", {"rsd", "ofa", "rsd+kd"}), ("cosine", {"cosine"})]
)
def test_an_edited_method_makes_its_own_cells_stale(distilled, method, holders):
    file = distilled.folder / "rsd" / "methods" / f"{method}.py"
    before = file.read_text()
    file.write_text(before + "EDITED = True\n")
    distilled.run("dvc", "repro", "params")
    status = distilled.run("dvc", "status", "distill").stdout
    file.write_text(before)
    stale = {line.rstrip(":") for line in status.splitlines() if line.startswith("distill@")}
    assert stale == {f"distill@{name}-0" for name in holders}
