import torch

from benchmarks import rsd_step
from benchmarks.random_store import random_store
from benchmarks.rsd_step import CLASSES, IMAGES, steps
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import embedding_width


def test_every_way_steps_from_the_same_student(monkeypatch, tmp_path):
    monkeypatch.setattr(rsd_step, "SHAPE", (32, 32, 3))
    tiny = ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})
    student, teacher = (create(tiny, classes=rsd_step.CLASSES, image_shape=(32, 32, 3)) for _ in range(2))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    store = random_store(
        tmp_path, images=IMAGES, width=embedding_width(teacher), classes=CLASSES, device=torch.device("cpu")
    )
    made = steps(student, "sgd", teacher.eval(), store)
    assert list(made) == ["scratch", "stored", "scratch + teacher", "live", "timm"]
    for step in made.values():
        step()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())
