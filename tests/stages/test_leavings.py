"""What editors and file managers leave in a folder of code changes no run."""

from pathlib import Path

import pytest

LEAVINGS = (".loop.py.swp", "loop.py~", "#loop.py#", ".#loop.py", "4913", ".DS_Store", ".ipynb_checkpoints/loop.py")


@pytest.fixture
def leavings(reproduced):
    """One of each in every room, and in every other folder that a stage depends on."""
    folders = [path for path in (reproduced.folder / "rsd").rglob("*") if path.is_dir() and path.name != "__pycache__"]
    folders += [reproduced.folder / name for name in ("conf", "methods", "licences", "budget")]
    files = [folder / name for folder in folders for name in LEAVINGS]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("left behind")
    yield files
    for file in files:
        file.unlink()
        if file.parent.name == Path(LEAVINGS[-1]).parent.name:
            file.parent.rmdir()


def test_what_editors_leave_changes_no_stage(reproduced, request):
    before = reproduced.run("dvc", "status").stdout
    request.getfixturevalue("leavings")
    assert reproduced.run("dvc", "status").stdout == before
    assert "changed deps" not in before
