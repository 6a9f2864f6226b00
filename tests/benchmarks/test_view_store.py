from benchmarks.pair import Case
from benchmarks.view_store import CASES, steps
from rsd.models.make import ModelOptions
from rsd.teacher.store import LiveTeacher

TINY = ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})


def test_only_the_live_way_runs_the_teacher(tmp_path, monkeypatch):
    requests: list[int] = []
    real = LiveTeacher.__call__

    def counted(*arguments):
        requests.append(1)
        return real(*arguments)

    monkeypatch.setattr(LiveTeacher, "__call__", counted)
    made = steps(Case(TINY, TINY, shape=(32, 32, 3), batch=4, classes=5, images=9), tmp_path)
    assert list(made) == ["stored", "live"]
    made["stored"]()
    assert not requests
    made["live"]()
    assert len(requests) == 1


def test_the_small_case_is_the_default_pair():
    case = CASES["digits, 16 px"]
    assert (case.teacher.name, case.student.args["img_size"]) == ("resnet18", case.shape[0])
