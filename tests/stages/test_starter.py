"""A stage that the tests' starter has started is as one that Python starts."""

import subprocess
import sys

import psutil  # type: ignore[import-untyped]
import pytest

from tests.pipelines.conftest import wait_until
from tests.stages.conftest import ROOT, Project, environment, starter


@pytest.mark.parametrize("arguments", [["distill"], ["nothing"], ["convert", "fp7"]])
def test_a_started_stage_ends_as_by_python(tmp_path, arguments):
    command = ["python", "-m", f"stages.{arguments[0]}", *arguments[1:]]
    variables = {"PYTHONPATH": str(ROOT)}
    started, plain = (
        subprocess.run(command, cwd=tmp_path, env=environment() | more | variables, capture_output=True, text=True)
        for more in (starter(), {})
    )
    assert started.returncode == plain.returncode != 0
    assert started.stdout == plain.stdout
    assert started.stderr.splitlines()[-1].endswith(plain.stderr.splitlines()[-1].partition(": ")[2])


def test_other_commands_are_pythons_own(tmp_path):
    done = Project(tmp_path).run("python", "-c", "import sys; print(sys.executable)")
    assert done.stdout.strip() == sys.executable


def test_a_killed_caller_takes_its_stage_along(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    program = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n"
    (tmp_path / "stages" / "sleeper.py").write_text(program)
    command, env = ["python", "-m", "stages.sleeper"], environment() | starter()
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout
        stage = int(caller.stdout.readline())
        caller.kill()
        wait_until(lambda: not psutil.pid_exists(stage), 30)
