import pytest

from benchmarks import engine_build
from benchmarks.engine_build import STUDENTS, rows
from benchmarks.overhead import PAIRS
from rsd.export.precisions import names
from rsd.export.tensorrt import EngineOptions, available
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.run.records import EngineRecord


def test_the_students_are_those_of_the_paper():
    pairs = [*(PAIRS / "cifar100").glob("*.yaml"), *(PAIRS / "imagenet").glob("*.yaml")]
    described = [PAIRS / f"{pair}.yaml" for pair in STUDENTS.values()]
    of_the_paper, built = ({str(read_yaml(f)["student"]) for f in fs} for fs in (pairs, described))
    assert built == of_the_paper


def test_a_line_holds_the_build_or_its_error(monkeypatch):
    def build(onnx, engine, options, *, precision):
        if precision == "int8":
            raise UserError("no such operator")
        facts = {"build_seconds": 1.26, "bytes": 2_500_000, "version": "11", "compute_capabilities": ["8.7"]}
        return EngineRecord(status="built", library="tensorrt", precision=precision, **facts)

    monkeypatch.setattr(engine_build, "graphs", lambda student, folder: dict.fromkeys(names(), folder))
    monkeypatch.setattr(engine_build, "build", build)
    built, refused = rows(["resnet18"], ["fp16", "int8"], EngineOptions())
    assert float(built.pop("CPU, s")) >= 0
    assert built == {
        "student": "resnet18",
        "precision": "fp16",
        "build, s": "1.3",
        "engine, MB": "2.5",
        "library": "tensorrt 11 for 8.7",
    }
    assert (refused["library"], refused["engine, MB"]) == ("no such operator", "-")
    assert list(refused) == ["student", "precision", "build, s", "CPU, s", "engine, MB", "library"]


@pytest.mark.slow
@pytest.mark.skipif((available() or ("",))[0] != "tensorrt_rtx", reason="tensorrt_rtx is not used here")
def test_the_papers_student_builds_in_every_precision():
    result = list(rows(["mobilenetv2"], names(), EngineOptions()))
    assert [line["precision"] for line in result] == names()
    assert all(float(line["engine, MB"]) > 1 for line in result), result
