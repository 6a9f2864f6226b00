"""The real project in a temporary folder, with settings so small that the whole graph takes a minute."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rsd.machine.yaml_file import read_yaml
from rsd.training import checkpoint

ROOT = Path(__file__).parents[2]

TINY: dict[str, Any] = {
    "methods": ["scratch", "rsd"],
    "seeds": [0],
    "export": read_yaml(ROOT / "params.yaml")["export"] | {"method": "rsd"},
    "views": {"count": 2, "seed": 0, "batch_size": 256},
    "override": {
        "data": {"size": 8},
        "teacher": {"args": {"channels": [8, 8, 8, 16], "stem_width": 4}, "min_top1": 0},
        "teacher_recipe": {"epochs": 4},
        "student": {"args": {"img_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}, "min_top1": 0},
        "recipe": {"epochs": 6, "warmup_epochs": 1},
    },
    "benchmark": {
        "warmup_seconds": 0.05,
        "min_seconds": 0.1,
        "min_samples": 70,
        "rounds": 2,
        "offline_batches": [4],
        "cold_starts": 1,
        "baseline": False,
    },
}


class Project:
    """A copy of the project; `run` starts a command in it, as a user would in an activated environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"

    def run(
        self, *command: str, check: bool = True, afresh: bool = False, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """`afresh`: each stage loads all its libraries, as it does for a user."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment() | ({} if afresh else starter()) | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout
        return done

    def stage(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", f"stages.{name}", *arguments, check=check)

    def edit(self, file: str, **changes: object) -> None:
        """Change top-level keys of a YAML or JSON file; what is written is JSON, which both readers take."""
        path = self.folder / file
        path.write_text(json.dumps(read_yaml(path) | changes))


def environment() -> dict[str, str]:
    """`python` and `dvc` are those that run the tests; `rsd` is that of the current folder."""
    path = [str(ROOT / "tests" / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return os.environ | {"PATH": ":".join(path), "COLUMNS": "200"}


@cache
def starter() -> dict[str, str]:
    """The variables with which `python -m stages.NAME` is started by a process that has loaded the libraries."""
    address = f"{tempfile.mkdtemp()}/starter"
    program = str(Path(__file__).with_name("starter.py"))
    process = subprocess.Popen(
        [sys.executable, program, address], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "listening\n"
    atexit.register(shutil.rmtree, Path(address).parent)
    atexit.register(process.communicate)
    variables = {"STARTER": program, "STARTER_ADDRESS": address, "STARTER_PYTHON": sys.executable}
    return variables | {"PATH": f"{Path(__file__).with_name('bin')}:{environment()['PATH']}"}


def copy_of_the_project(folder: Path) -> Project:
    """What git tracks or would track, committed in a repository of its own, with tiny params."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    project = Project(folder)
    project.edit("params.yaml", **TINY)
    project.run("git", "init", "-q")
    project.run("git", "config", "user.email", "test@example.org")
    project.run("git", "config", "user.name", "test")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "copy")
    return project


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """The project after its first `dvc repro`. Tests that change files take `project`, a copy of it."""
    project = copy_of_the_project(tmp_path_factory.mktemp("project"))
    project.first_run = project.run("dvc", "repro", afresh=True).stdout  # type: ignore[attr-defined]
    return project


@pytest.fixture
def project(reproduced, tmp_path):
    """A copy of the reproduced project, without DVC's cache, to be changed at will."""
    folder = tmp_path / "project"
    shutil.copytree(reproduced.folder, folder, ignore=shutil.ignore_patterns(".git", ".dvc", "__pycache__"))
    return Project(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares this folder's session fixtures runs in one process."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("reproduced"))


def killed(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None]) -> None:
    """Run a stage that trains, and kill it once it has saved its state."""
    save = checkpoint.save

    def save_and_die(path: Path, state: Any) -> None:
        save(path, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            main()
