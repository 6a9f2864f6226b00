"""A sweep of real, tiny trainings: the teacher once, each cell an experiment with the project's own metrics."""

import json
import os
import sys

import pandas as pd
import pytest

from pipelines.git import contents, experiments
from tests.stages.conftest import copy_of_the_project


@pytest.mark.slow
def test_real_cells_share_teacher_and_match_dvc_repro(tmp_path, prefect_server):
    swept, alone = (copy_of_the_project(tmp_path / name) for name in ("swept", "alone"))
    os.environ.update(prefect_server)

    shown = swept.run(
        *[sys.executable, "-m", "pipelines.sweep", "method.rsd.weight=0.1,0.4", "--seeds", "0", "1", "--name", "tiny"]
    ).stdout

    assert shown.count("python -m stages.teacher") == shown.count("python -m stages.embed") == 1
    assert shown.count("python -m stages.distill scratch") == 2
    assert shown.count("python -m stages.distill rsd") == 4
    refs = {name: ref for name, ref in experiments(swept.folder).items() if name.startswith("tiny-0.4-")}
    assert len(refs) == 1
    record = json.loads(contents(swept.folder, {name: f"{ref}:sweep.json" for name, ref in refs.items()}).popitem()[1])
    students = {f"{one['method']}-{one['seed']}": one for one in record["students"]}
    assert students.keys() == {"scratch-0", "scratch-1", "rsd-0", "rsd-1"}

    alone.run("dvc", "exp", "run", "-q", "-S", "method.rsd.weight=0.4", "-S", "seeds=[0,1]", "evaluate")
    models = json.loads((alone.out / "evaluate/models.json").read_text())
    for model in models:
        if model["model"] != "teacher":
            assert students[model["model"]]["test_top1"] == model["top1"]
    table = pd.read_csv(swept.out / "sweeps/tiny/table.csv")
    assert table.groupby("method")["seeds"].sum().to_dict() == {"rsd": 4, "scratch": 4}


@pytest.mark.slow
def test_a_grid_that_the_project_refuses_runs_nothing(tmp_path, prefect_server):
    project = copy_of_the_project(tmp_path / "project")
    os.environ.update(prefect_server)

    done = project.run(sys.executable, "-m", "pipelines.sweep", "pair=digits/resnet-vti", check=False)

    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert "pair: expected a name out of conf/pair" in last
    assert "did you mean digits/resnet-vit?" in last
    assert "stages." not in done.stdout
    assert not experiments(project.folder)
