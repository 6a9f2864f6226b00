"""The run's folder: its records come back as written, and what no longer fits together is named."""

import re
from pathlib import Path

import pytest

from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.machine.yaml_file import read_yaml
from rsd.run.paths import Run
from rsd.run.records import BundleRecord, DatasetRecord, Origin
from tests.rsd.run.small import convert, evaluate, export, index, measure, student, teacher, whole_run

ROOT = Path(__file__).parents[3]


def test_every_record_comes_back_as_written(tmp_path):
    run = whole_run(tmp_path)
    places = [record.place for record in run.records()]
    assert len(places) == len(set(places)) == 12
    for record in run.records():
        before = (tmp_path / record.place).read_text()
        run.write(record)
        assert (tmp_path / record.place).read_text() == before
    assert run.shipped().student.name == "rsd-0"
    assert run.student("rsd", 0).weights == tmp_path / "students" / "rsd-0" / "model.safetensors"


def test_nothing_is_stale_in_a_whole_run(tmp_path):
    assert whole_run(tmp_path).stale() == {}


def test_another_student_makes_only_its_followers_stale(tmp_path):
    run = whole_run(tmp_path)
    run.write(student(run, "rsd", "other"))
    index(run)
    evaluate(run)  # as after `dvc exp run evaluate`
    assert list(run.stale()) == [
        "export/export.json",
        "convert/fp32/convert.json",
        "convert/int8/convert.json",
        "engines/fp32/engine.json",
        "engines/int8/engine.json",
        "benchmark/latency.json",
    ]
    assert set(run.stale().values()) == {"students/rsd-0/model.safetensors is another by now"}


def test_each_stage_that_runs_again_mends_its_own(tmp_path):
    run = whole_run(tmp_path)
    run.write(student(run, "rsd", "other"))
    index(run)
    evaluate(run)
    export(run, "another onnx")
    for precision in ("fp32", "int8"):
        convert(run, precision)
    assert list(run.stale()) == ["benchmark/latency.json"]
    measure(run)
    assert run.stale() == {}


def test_a_changed_section_names_its_methods_students(tmp_path):
    run = whole_run(tmp_path)
    write_json(run.params / "method" / "scratch.json", {"weight": 1})
    stale = run.stale()
    assert stale["students/scratch-0/student.json"] == "params/method/scratch.json is another by now"
    assert "students/rsd-0/student.json" not in stale
    assert "export/export.json" not in stale


def test_another_teacher_is_seen_in_every_student(tmp_path):
    run = whole_run(tmp_path)
    run.write(teacher("other"))
    assert {"students/scratch-0/student.json", "students/rsd-0/student.json", "shipped.json"} <= set(run.stale())


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "[" * 100_000, "\x00"])
def test_a_damaged_record_names_the_command(tmp_path, content):
    run = whole_run(tmp_path)
    (tmp_path / "export" / "export.json").write_text(content)
    with pytest.raises(UserError, match="expected a record in .*export.json, found: .*; run `dvc repro -f -s export`"):
        run.export()


def test_a_missing_record_names_its_stage(tmp_path):
    with pytest.raises(UserError, match="found none; run `dvc repro distill@rsd-3`"):
        Run(tmp_path).student("rsd", 3)


def test_graph_and_run_name_the_same_records(tmp_path):
    """Each record lies in an output of a stage of dvc.yaml."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    outs = []
    for stage in stages.values():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            parts = re.split(r"\$\{item\.\w+\}", out if isinstance(out, str) else next(iter(out)))
            outs.append(re.compile("[^/]+".join(map(re.escape, parts)) + "(/.*)?"))
    for record in whole_run(tmp_path).records():
        assert any(out.fullmatch(f"out/{record.place}") for out in outs), record.place


def test_a_bundle_of_another_evaluation_is_stale(tmp_path):
    run = whole_run(tmp_path)
    bundle = BundleRecord(origin=Origin(made_from=run.shipped().made_from | run.digests("evaluate/models.json")))
    run.write(bundle)
    assert run.stale(bundle) == {}
    run.write(student(run, "rsd", "other"))
    index(run)
    evaluate(run)
    assert "bundle/manifest.json" in run.stale(bundle)


def test_every_record_is_among_the_files_shown(tmp_path):
    run = whole_run(tmp_path)
    places = {tmp_path / record.place for record in run.records()}
    shown = {path for pattern in run.shown for path in tmp_path.glob(str(Path(pattern).relative_to(tmp_path)))}
    assert places < shown


@pytest.mark.parametrize(
    ("student", "teacher", "own", "labelled", "refused"),
    [
        (64, 64, None, None, None),
        (101, 64, None, None, "recipe.batch_size: expected at most the 100 training images, found 101"),
        (64, 64, None, 20, "teacher_recipe.batch_size: expected at most the 20 training images, found 64"),
        (64, 64, 400, 20, None),
        (64, 64, 30, None, "teacher_recipe.batch_size: expected at most the 30 training images, found 64"),
    ],
)
def test_a_batch_must_fit_its_own_images(tmp_path, student, teacher, own, labelled, refused):
    run = Run(tmp_path)
    for name, size in (("recipe", student), ("teacher_recipe", teacher)):
        write_json(tmp_path / "params" / f"{name}.json", {"batch_size": size})
    counts = {"train": 100, "validation": 10, "test": 10} | ({"teacher": own} if own else {})
    data = DatasetRecord(
        source="digits", classes=["a", "b"], height=8, width=8, channels=1, mean=[0.5], std=[0.2], counts=counts,
        labelled=labelled, checksums={},
    )  # fmt: skip
    if refused is None:
        run.check_batches(data)
    else:
        with pytest.raises(UserError, match=re.escape(refused)):
            run.check_batches(data)
