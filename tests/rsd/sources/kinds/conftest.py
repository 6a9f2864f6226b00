"""Folders of images that tests change."""

import pytest

from tests.rsd.sources.image_folders import fill


@pytest.fixture
def flat(tmp_path):
    return fill(tmp_path / "images", {"cat": 20, "dog": 10, "emu": 5})


@pytest.fixture
def whole(tmp_path):
    return fill(tmp_path / "images", {f"{s}/{c}": 4 for s in ("train", "val", "test") for c in ("cat", "dog")})
