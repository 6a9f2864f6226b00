import pytest

from benchmarks.engine_build import STUDENTS, row, rows
from benchmarks.overhead import PAIRS
from rsd.export.precisions import names
from rsd.export.tensorrt import EngineOptions, available
from rsd.machine.yaml_file import read_yaml


def test_the_students_are_those_of_the_paper():
    pairs = [*(PAIRS / "cifar100").glob("*.yaml"), *(PAIRS / "imagenet").glob("*.yaml")]
    described = [PAIRS / f"{pair}.yaml" for pair in STUDENTS.values()]
    of_the_paper, built = ({str(read_yaml(f)["student"]) for f in fs} for fs in (pairs, described))
    assert built == of_the_paper


def test_a_line_holds_the_build_or_its_error():
    record = {"build_seconds": 1.26, "cpu_seconds": 1.0, "bytes": 2_500_000, "library": "tensorrt", "version": "11"}
    assert row("resnet18", "fp16", record | {"compute_capabilities": ["8.7"]}) == {
        "student": "resnet18",
        "precision": "fp16",
        "build, s": "1.3",
        "CPU, s": "1.0",
        "engine, MB": "2.5",
        "library": "tensorrt 11 for 8.7",
    }
    refused = row("resnet18", "int8", "no such operator")
    assert (refused["library"], refused["engine, MB"]) == ("no such operator", "-")
    assert refused.keys() == row("resnet18", "fp16", record | {"compute_capabilities": ["8.7"]}).keys()


@pytest.mark.slow
@pytest.mark.skipif((available() or ("",))[0] != "tensorrt_rtx", reason="tensorrt_rtx is not used here")
def test_the_papers_student_builds_in_every_precision():
    result = list(rows(["mobilenetv2"], names(), EngineOptions()))
    assert [line["precision"] for line in result] == names()
    assert all(float(line["engine, MB"]) > 1 for line in result), result
