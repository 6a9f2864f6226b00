"""To add a source of images or a kind of teacher is to add one file; nothing else of the code is edited."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from rsd.machine.yaml_file import read_yaml
from rsd.sources.images import read_record, read_split
from tests.stages.conftest import ROOT, TINY, Project

HALVES = '''
"""Noise; the class is the half that is brighter."""

import numpy as np
from pydantic import Field

from rsd.sources.arrays import ArraySource
from rsd.sources.images import LabelledImages


class Halves(ArraySource):
    """`data.source: halves`."""

    contrast: int = Field(10, gt=0, le=100)
    """Between the halves, in grey levels."""

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        generator = np.random.default_rng(self.seed)
        labels = np.arange(60) % 2
        images = generator.integers(0, 100, (60, 8, 8, 1), dtype=np.uint8)
        images[labels == 0, :, :4] += self.contrast
        images[labels == 1, :, 4:] += self.contrast
        classes = ["left", "right"]
        return LabelledImages(images[:40], labels[:40], classes), LabelledImages(images[40:], labels[40:], classes)
'''
UNTRAINED = '''
"""A teacher with random weights."""

from pydantic import Field

from rsd.sources.images import DatasetRecord
from rsd.teacher.base import Start, TeacherOptions
from rsd.models.preprocessing import Preprocessing


class Untrained(TeacherOptions):
    """`teacher.source: untrained`."""

    grey: float = Field(0.5, gt=0, lt=1)
    """Mean of the pixels that the teacher expects."""

    def start(self, data: DatasetRecord) -> Start:
        preprocessing = Preprocessing([self.grey] * data.channels, [0.25] * data.channels)
        return Start(self.new_model(data, None), preprocessing, None)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The code and two files more, and params that name them; the stages up to the teacher have run."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("rsd", "stages", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "rsd" / "sources" / "kinds" / "halves.py").write_text(HALVES)
    (folder / "rsd" / "teacher" / "kinds" / "untrained.py").write_text(UNTRAINED)
    (folder / "conf" / "data" / "halves.yaml").write_text(json.dumps({"source": "halves", "contrast": 20}))
    override = TINY["override"] | {"data": {"validation": 0.2}}
    override["recipe"] = override["recipe"] | {"batch_size": 16}
    override["teacher"] = override["teacher"] | {"source": "untrained", "grey": 0.4}
    chosen = read_yaml(ROOT / "params.yaml") | TINY | {"data": "halves", "override": override}
    (folder / "params.yaml").write_text(json.dumps(chosen))
    project = Project(folder)
    for stage in ("params", "sources", "prepare", "teacher"):
        project.stage(stage)
    return project


def section(project: Project, name: str) -> dict:
    return json.loads((project.out / "params" / f"{name}.json").read_text())


def test_a_source_is_one_more_file(project):
    assert (section(project, "data")["source"], section(project, "data")["contrast"]) == ("halves", 20)
    record = read_record(project.out / "data")
    assert (record.source, record.classes, record.image_shape) == ("halves", ["left", "right"], (8, 8, 1))
    assert record.counts == {"train": 32, "validation": 8, "test": 20}
    test = read_split(project.out / "data", "test")
    left, right = np.split(test.images[:].astype(int), 2, axis=2)
    assert np.mean((right.sum((1, 2, 3)) > left.sum((1, 2, 3))) == test.labels) > 0.9


def test_a_kind_of_teacher_is_one_more_file(project):
    assert section(project, "teacher_recipe") is None  # it is not trained here
    record = json.loads((project.out / "teacher" / "model.json").read_text())
    assert (record["source"], record["mean"], record["classes"]) == ("untrained", [0.4], ["left", "right"])
    weights = load_file(project.out / "teacher" / "model.safetensors")
    assert len(weights["fc.bias"]) == 2
    assert not (project.out / "teacher" / "history.csv").exists()
