"""Bad input and bad luck: one clear sentence, a non-zero exit, and nothing half-written that looks whole."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from dvc.utils.serialize import parse_yaml

from rsd.machine.files import read_json
from tests.stages.conftest import environment


def sentence(done):
    """The stage's last words, after checking that they are no traceback."""
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    lines = done.stdout.strip().splitlines()
    assert any(line.startswith("error: ") for line in lines), done.stdout
    return done.stdout[done.stdout.index("error: ") :]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_unknown_param_stops_dvc_repro_first(reproduced):
    params = reproduced.folder / "params.yaml"
    before, lock = params.read_text(), (reproduced.folder / "dvc.lock").read_bytes()
    student = digest(reproduced.out / "students" / "rsd-0" / "model.safetensors")
    try:
        reproduced.edit("params.yaml", viws={"count": 3})
        done = reproduced.run("dvc", "repro", check=False)
        assert done.returncode != 0
        assert "viws: unknown key; did you mean views?" in done.stdout
        assert "Running stage 'prepare'" not in done.stdout
        assert "Running stage 'distill" not in done.stdout
    finally:
        params.write_text(before)
    assert digest(reproduced.out / "students" / "rsd-0" / "model.safetensors") == student
    reproduced.run("dvc", "repro", "params")
    assert (reproduced.folder / "dvc.lock").read_bytes() == lock


def test_a_missing_dataset_folder_is_one_sentence(project):
    source = {"source": "fashion_mnist", "root": "nowhere/fashion", "validation": 0.1, "seed": 0}
    (project.out / "params" / "data.json").write_text(json.dumps(source))
    before = digest(project.out / "data" / "dataset.json")
    assert "nowhere/fashion, found no such folder" in sentence(project.stage("prepare", check=False))
    assert digest(project.out / "data" / "dataset.json") == before


def test_a_weak_student_stops_the_export(project):
    project.edit("out/params/student_gate.json", min_top1=100)
    before = digest(project.out / "export" / "model.onnx")
    assert "at least 100.00 % top-1, found" in (text := sentence(project.stage("export", check=False)))
    assert "lower student.min_top1" in text
    assert digest(project.out / "export" / "model.onnx") == before


def test_a_misfit_teacher_checkpoint_is_one_sentence(project):
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3, 3)}}, project.folder / "other.pth")
    project.edit("out/params/teacher.json", source="file", weights="other.pth")
    before = digest(project.out / "teacher" / "model.safetensors")
    assert "other.pth do not fit the teacher" in sentence(project.stage("teacher", check=False))
    assert digest(project.out / "teacher" / "model.safetensors") == before


def test_a_teachers_folder_gives_that_teacher(project):
    before = digest(project.out / "teacher" / "model.safetensors")
    (project.out / "teacher").rename(project.folder / "kept")
    project.edit("out/params/teacher.json", source="file", weights="kept")
    project.stage("teacher")
    assert digest(project.out / "teacher" / "model.safetensors") == before


def test_a_loss_not_finite_stops_with_the_step(project):
    project.edit("out/params/recipe.json", learning_rate=1e30)
    before = digest(project.out / "students" / "scratch-0" / "model.safetensors")
    assert "expected a finite loss, found" in (text := sentence(project.stage("distill", "scratch", "0", check=False)))
    assert "at step" in text
    assert digest(project.out / "students" / "scratch-0" / "model.safetensors") == before


def test_cells_that_are_no_longer_chosen_are_forgotten(project):
    """What they left would be counted in by the stages that read a whole folder, and by the report."""
    assert (project.out / "convert" / "fp16").is_dir()
    project.edit("params.yaml", precisions=["fp32"], methods=["scratch"], export={"method": "scratch"})
    project.stage("params")
    assert "fp16" not in project.run("rsd", "table").stdout
    project.stage("students")
    assert [path.name for path in (project.out / "convert").iterdir()] == ["fp32"]
    assert [path.name for path in (project.out / "engines").iterdir()] == ["fp32"]
    assert [path.name for path in (project.out / "students").iterdir()] == ["scratch-0"]
    assert "RSD" not in project.run("rsd", "table").stdout


def test_a_view_store_of_another_augmentation_is_refused(project):
    recipe = read_json(project.out / "params" / "recipe.json")
    project.edit("out/params/recipe.json", augment=recipe["augment"] | {"flip": True})
    assert "run `dvc repro embed`" in sentence(project.stage("distill", "rsd", "0", check=False))


def test_a_failed_parity_gate_leaves_no_file(project):
    options = read_json(project.out / "params" / "export.json")
    project.edit("out/params/export.json", gates=options["gates"] | {"fp32_max_difference": 1e-12})
    before = digest(project.out / "export" / "model.onnx")
    assert "the fp32 export differs from PyTorch" in sentence(project.stage("export", check=False))
    assert digest(project.out / "export" / "model.onnx") == before


def killed_in_training(project):
    """Start an RSD student, kill it without warning once a checkpoint is there, and return that checkpoint."""
    for file in (project.out / "students" / "rsd-0").iterdir():
        file.unlink()  # as `dvc repro` does before a stage runs
    process = subprocess.Popen(
        ["python", "-m", "stages.distill", "rsd", "0"], cwd=project.folder, env=environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (checkpoints := list((project.folder / ".state" / "rsd-0").glob("*/checkpoint.pt"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return checkpoints[0]


# The undisturbed history goes into the comparison too: it shows every epoch.
FILES = ("model.safetensors", "config.json", "README.md", "scaffold.safetensors", "history.csv", "student.json")


def test_a_killed_training_resumes_to_the_same_bytes(reproduced, project):
    project.edit("out/params/recipe.json", epochs=40)
    project.stage("distill", "rsd", "0")
    undisturbed = {name: digest(project.out / "students" / "rsd-0" / name) for name in FILES}
    killed_in_training(project)
    assert not list((project.out / "students" / "rsd-0").iterdir())
    done = project.stage("distill", "rsd", "0")
    assert "resumed after epoch" in done.stdout
    assert {name: digest(project.out / "students" / "rsd-0" / name) for name in FILES} == undisturbed
    assert not (project.folder / ".state" / "rsd-0").exists()


@pytest.mark.slow
def test_dvc_repro_resumes_a_kill_to_equal_bytes(reproduced):
    """DVC deletes a stage's outputs before it runs: the unfinished training must not be among them."""
    params = reproduced.folder / "params.yaml"
    before = params.read_text()
    command = ["dvc", "repro", "distill@rsd-0"]
    try:
        method = parse_yaml(before, "params.yaml")["method"]
        reproduced.edit("params.yaml", method=method | {"rsd": {"weight": 0.3}})  # which DVC has not in its cache
        process = subprocess.Popen(command, cwd=reproduced.folder, env=environment(), start_new_session=True)
        deadline = time.monotonic() + 120
        while not list((reproduced.folder / ".state" / "rsd-0").glob("*/checkpoint.pt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert "resumed after epoch" in reproduced.run(*command).stdout
        resumed = {name: digest(reproduced.out / "students" / "rsd-0" / name) for name in FILES}
        reproduced.run("dvc", "repro", "-f", "-s", "distill@rsd-0")
        assert {name: digest(reproduced.out / "students" / "rsd-0" / name) for name in FILES} == resumed
    finally:
        params.write_text(before)
        reproduced.run("dvc", "repro", "distill@rsd-0")


@pytest.mark.slow
def test_two_processes_train_the_student_of_one(project):
    """And writes each file once; the numbers differ by the rounding of sums, which training magnifies."""
    project.stage("distill", "rsd", "0")
    alone = pd.read_csv(project.out / "students" / "rsd-0" / "history.csv")
    project.edit("out/params/compute.json", processes=2)
    project.stage("distill", "rsd", "0")
    together = pd.read_csv(project.out / "students" / "rsd-0" / "history.csv")
    assert list(together) == list(alone)
    assert np.allclose(together.iloc[0], alone.iloc[0], rtol=1e-3)
    assert json.loads((project.out / "students" / "rsd-0" / "student.json").read_text())["compute"]["processes"] == 2
    project.edit("out/params/recipe.json", learning_rate=1e30)
    output = sentence(project.stage("distill", "rsd", "0", check=False))
    assert output.startswith("error: expected a finite")
    assert output.count("expected a finite") == 1


@pytest.mark.slow
def test_two_processes_embed_and_evaluate_like_one(project):
    def written():
        folders = (project.out / "views", project.out / "evaluate")
        return {str(file): digest(file) for folder in folders for file in folder.rglob("*") if file.is_file()}

    alone = written()
    project.edit("out/params/compute.json", processes=2)
    for name in ("views", "evaluate"):
        shutil.rmtree(project.out / name)
    output = project.stage("embed").stdout
    assert output.count("view store: ") == output.count("teacher on its stored views: ") == 1
    project.stage("evaluate")
    assert written() == alone
    assert not (project.folder / ".state" / "embed").exists()


@pytest.mark.parametrize("changed", ["params", "data", "code"])
def test_after_a_kill_a_changed_run_starts_afresh(project, changed):
    project.edit("out/params/recipe.json", epochs=40)
    stale = killed_in_training(project)
    if changed == "params":
        project.edit("out/params/method/rsd.json", weight=0.3)
    elif changed == "data":
        record = json.loads((project.out / "data" / "dataset.json").read_text())
        record["mean"] = [0.123]
        (project.out / "data" / "dataset.json").write_text(json.dumps(record))
        project.stage("embed")
    else:
        with (project.folder / "rsd" / "training" / "loop.py").open("a") as file:
            file.write("\n# changed\n")
    done = project.stage("distill", "rsd", "0")
    assert "resumed" not in done.stdout
    assert not stale.exists()
