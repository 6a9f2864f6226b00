"""Two machines train the students of one: namespaces with a cable between them, and a project's folder each."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.namespaces import end_all, switched, why_not
from tests.stages.conftest import Project, environment
from tests.stages.test_trouble import FILES, digest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason := why_not()), reason=str(reason))]

CELLS = "python -m stages.distill rsd 0 && python -m stages.distill scratch 0"


def written(project):
    folders = [project.out / "students" / name for name in ("rsd-0", "scratch-0")]
    return {
        str(file.relative_to(project.out)): digest(file)
        for folder in folders
        for name in FILES
        if (file := folder / name)
    }


def start(machine, folder, *words):
    return subprocess.Popen(
        machine.command("rsd", "nodes", *words),
        cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_a_killed_node_ends_the_run_and_resumes(project, tmp_path):
    """Without a shared folder: the later node has the inputs, and gets the checkpoint from the first."""
    project.edit("out/params/compute.json", processes=2)
    project.edit("out/params/recipe.json", epochs=30)
    for student in ("rsd", "scratch"):
        project.stage("distill", student, "0")
    alone = written(project)
    for student in ("rsd-0", "scratch-0"):
        shutil.rmtree(project.out / "students" / student)
    project.edit("out/params/compute.json", nodes=2)
    other = Project(Path(shutil.copytree(project.folder, tmp_path / "other")))

    with switched(2) as (first, later):

        def both():
            leader = start(first, project.folder, "--", "sh", "-c", CELLS)
            return leader, start(later, other.folder, "--node", "1", "--leader", first.address)

        leader, follower = both()
        deadline = time.monotonic() + 200
        while not list((project.folder / ".state" / "rsd-0").glob("*/checkpoint.pt")):
            assert leader.poll() is None, leader.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        end_all(later.space)
        killed = time.monotonic()
        output = leader.communicate(timeout=100)[0]
        assert time.monotonic() - killed < 60
        follower.communicate()
        assert leader.returncode == 1
        assert "Traceback" not in output
        assert f"error: node 1 ({later.address}) gave no sign of life for 20 seconds" in output.splitlines()[-1]

        leader, follower = both()
        outputs = [node.communicate(timeout=300)[0] for node in (leader, follower)]
    assert [leader.returncode, follower.returncode] == [0, 0], outputs
    assert "rsd-0: resumed after epoch" in outputs[0]
    assert outputs[1].splitlines()[-3:] == [
        "node 1: distill rsd 0",
        "node 1: distill scratch 0",
        "node 1: the run is over",
    ]
    assert written(project) == alone
    assert not list((other.out / "students").iterdir())
    assert json.loads((project.out / "students" / "rsd-0" / "student.json").read_text())["compute"]["processes"] == 2
