import torch

from benchmarks.pair import Case, bench
from benchmarks.rsd_step import steps
from rsd.models.make import ModelOptions

TINY = ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})


def test_every_way_steps_from_the_same_student(tmp_path):
    case = Case(TINY, TINY, "sgd", shape=(32, 32, 3), batch=16, images=64)
    pair = bench(case, tmp_path, torch.device("cpu"))
    before = {name: value.clone() for name, value in pair.student.state_dict().items()}
    frozen = {name: value.clone() for name, value in pair.teacher.state_dict().items()}
    ways = steps(pair)
    assert list(ways) == ["scratch", "stored", "scratch + teacher", "live", "timm"]
    for step in ways.values():
        step()
    assert all(torch.equal(value, before[name]) for name, value in pair.student.state_dict().items())
    assert all(torch.equal(value, frozen[name]) for name, value in pair.teacher.state_dict().items())
