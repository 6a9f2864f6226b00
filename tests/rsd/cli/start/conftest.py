"""A clone of the project, and a folder of images, without a network."""

import shutil
from pathlib import Path

import pytest

from tests.rsd.sources.image_folders import fill

ROOT = Path(__file__).parents[4]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("rsd.cli.start.models.on_hub", lambda name: "no network")
    return folder


@pytest.fixture
def images(tmp_path):
    return fill(tmp_path / "My Images", {"cat": 30, "dog/brown": 30}, side=20)
