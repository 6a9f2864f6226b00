"""A snapshot shows records that fit together, and no other."""

import pytest

from rsd.machine.errors import UserError
from rsd.run.snapshot import evaluated, snapshot
from tests.rsd.run.small import evaluate, index, student, whole_run


def test_a_whole_run_is_shown_whole(tmp_path):
    known = snapshot(whole_run(tmp_path))
    assert known.left_out == []
    assert [file.precision for file in known.converted] == ["fp32", "int8"]
    assert known.shipped_evaluation
    assert known.shipped_evaluation.model == "rsd-0"


def test_older_and_newer_students_never_mix(tmp_path):
    run = whole_run(tmp_path)
    run.write(student(run, "rsd", "other"))
    index(run)
    evaluate(run)
    known = snapshot(run)
    assert (known.export, known.converted, known.engines, known.latency) == (None, [], [], None)
    assert known.shipped_evaluation is None
    assert known.evaluation
    [sentence] = known.left_out
    assert sentence.startswith("export/export.json, convert/fp32/convert.json, ")
    assert sentence.endswith(" are left out: students/rsd-0/model.safetensors is another by now; run `dvc repro`")


def test_an_evaluation_of_older_students_is_refused(tmp_path):
    run = whole_run(tmp_path)
    run.write(student(run, "rsd", "other"))
    with pytest.raises(UserError, match="found that students/rsd-0/model.safetensors is another by now"):
        evaluated(run)


def test_before_the_first_run_the_command_is_named(tmp_path):
    with pytest.raises(UserError, match="run `make repro`"):
        evaluated(type(whole_run(tmp_path))(tmp_path / "none"))
