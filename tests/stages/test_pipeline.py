"""The whole graph, run by DVC in a copy of the project."""

import csv
import hashlib
import io
import json
import re
import shutil

import numpy as np
import onnx
import pytest
import timm
import torch
import vl_convert
from dvc.utils.serialize import parse_yaml
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rsd.export import tensorrt
from rsd.export.int8_file import chosen
from rsd.export.quantize import Int8Options, quantized
from rsd.machine.yaml_file import read_yaml
from rsd.models.folder import load_trained
from rsd.sources.images import read_split
from tests.stages.conftest import TINY


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(.+?)'", output)


def test_every_cell_writes_what_it_declares(reproduced):
    cells = {"distill@scratch-0", "distill@rsd-0"}
    cells |= {f"{stage}@{precision}" for stage in ("convert", "engine") for precision in ("fp32", "fp16", "int8")}
    alone = {"device", "params", "sources", "prepare", "teacher", "embed", "students", "evaluate", "export"}
    alone |= {"benchmark", "bundle", "report"}
    assert set(ran(reproduced.first_run)) == cells | alone
    lock = read_yaml(reproduced.folder / "dvc.lock")["stages"]
    assert set(lock) == cells | alone
    for stage in lock.values():
        for output in stage["outs"]:
            assert (reproduced.folder / output["path"]).exists()


def test_a_second_run_checks_the_outside_only(reproduced):
    before = (reproduced.folder / "dvc.lock").read_bytes()
    assert set(ran(reproduced.run("dvc", "repro").stdout)) == {"device", "sources", "students"}
    assert (reproduced.folder / "dvc.lock").read_bytes() == before


def test_the_students_weights_hold_no_aad(reproduced):
    students = reproduced.out / "students"
    names = {}
    for method in ("scratch", "rsd"):
        with safe_open(students / f"{method}-0" / "model.safetensors", "np") as weights:
            names[method] = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    assert names["rsd"] == names["scratch"]
    record = json.loads((students / "rsd-0" / "student.json").read_text())
    assert record["parameters"] == sum(int(np.prod(shape)) for shape in names["rsd"].values())
    assert record["extra_parameters"] == 16 * 32 + 2 * 32 + 32 * 16


def test_timm_and_the_hub_read_students_and_teacher(reproduced):
    folders = [reproduced.out / "teacher", *(reproduced.out / "students").iterdir()]
    for folder in folders:
        model, _, config = load_trained(folder)
        images = torch.randn(4, *config.input_size)
        of_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.equal(of_timm(images), model(images))
    cards = {folder: ModelCard.load(folder / "README.md") for folder in [*folders[1:], reproduced.out / "bundle"]}
    assert [card.data.library_name for card in cards.values()] == ["timm", "timm", "onnx"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_exported_graph_has_no_aad_or_path(reproduced, precision):
    path = reproduced.out / "convert" / precision / "model.onnx"
    assert str(reproduced.folder).encode() not in path.read_bytes()
    graph = onnx.load(path).graph
    # The AAD's hidden layer is 32 wide, and so is nothing else of this student but its MLP (64) and tokens.
    shapes = [tuple(initializer.dims) for initializer in graph.initializer]
    assert not {(32, 16), (16, 32)} & set(shapes)
    assert not [i.name for i in graph.initializer if "projection" in i.name or "aad" in i.name.lower()]


def test_int8_is_calibrated_on_the_training_split(reproduced):
    convert = reproduced.out / "convert"
    record = json.loads((convert / "int8" / "convert.json").read_text())["pairs"]["onnxruntime"]["details"]
    params = json.loads((reproduced.out / "params" / "export.json").read_text())
    proto = onnx.load(convert / "fp32" / "model.onnx")
    train = read_split(reproduced.out / "data", "train").images
    options = Int8Options.model_validate(params["int8"] | {"calibration": record["calibration"]})
    known = chosen(proto, train, options, runs_on="onnxruntime")
    assert known.form.name == record["form"]
    again = quantized(proto, known, in_float=[harm["node"] for harm in record["in_float"]])
    result = onnx.load(convert / "int8" / "model.onnx")
    values = [
        {t.name: onnx.numpy_helper.to_array(t).tolist() for t in made.graph.initializer} for made in (again, result)
    ]
    assert values[0] == values[1]


def test_every_student_is_judged_beside_its_scratch_twin(reproduced):
    metrics = json.loads((reproduced.out / "evaluate" / "metrics.json").read_text())
    assert metrics.keys() == {"teacher", "scratch", "rsd"}
    assert metrics["rsd"]["gain_over_scratch"] == pytest.approx(metrics["rsd"]["top1"] - metrics["scratch"]["top1"])


def test_first_students_are_compared_layer_by_layer(reproduced):
    rows = list(csv.DictReader((reproduced.out / "evaluate" / "cka.csv").open()))
    assert list(rows[0]) == ["student", "method", "student_layer", "teacher_layer", "cka"]
    assert {(row["student"], row["method"]) for row in rows} == {("scratch-0", "scratch"), ("rsd-0", "rsd")}
    assert {row["student_layer"] for row in rows} == {"blocks.0", "embedding"}
    assert {row["teacher_layer"] for row in rows} == {"act1", "layer1", "layer2", "layer3", "layer4", "embedding"}
    assert all(-0.5 < float(row["cka"]) <= 1 for row in rows)


def test_training_brings_the_cross_correlation_closer(reproduced):
    record = json.loads((reproduced.out / "evaluate" / "correlation.json").read_text())
    assert record["student"] == "rsd-0"
    record = record["correlation"]
    assert record["after"]["diagonal_mean"] > record["before"]["diagonal_mean"] + 0.1
    assert np.shape(record["before"]["matrix"]) == np.shape(record["after"]["matrix"]) == (record["cells"],) * 2
    validation = json.loads((reproduced.out / "data" / "dataset.json").read_text())["counts"]["validation"]
    assert record["images"] == min(validation, 512)


def test_without_a_look_inside_evaluation_says_so(project):
    offered = json.loads((project.out / "students" / "scratch-0" / "inside.json").read_text())
    assert offered["skipped"] == "the method 'scratch' offers nothing to look at"
    project.edit("out/students/rsd-0/inside.json", correlation=None)
    project.stage("evaluate")
    record = json.loads((project.out / "evaluate" / "correlation.json").read_text())
    assert record["correlation"] is None
    assert record["skipped"] == "no method of this run offers a look inside its student"
    project.stage("report")


def test_engines_are_built_or_say_why_not(reproduced):
    for precision in ("fp32", "fp16", "int8"):
        folder = reproduced.out / "engines" / precision
        record = json.loads((folder / "engine.json").read_text())
        if tensorrt.available():
            assert record["status"] == "built"
            assert hashlib.sha256((folder / "model.engine").read_bytes()).hexdigest() == record["engine_sha256"]
            assert (folder / "build.log").read_text()
            assert str(reproduced.folder) not in json.dumps(record) + (folder / "build.log").read_text()
            source = reproduced.out / "convert" / precision  # of int8 TensorRT has a file of its own
            pairs = json.loads((source / "convert.json").read_text())["pairs"]
            model = onnx.load(source / pairs["tensorrt"]["file"])
            assert record["metadata"] == {entry.key: entry.value for entry in model.metadata_props}
            assert {"classes", "preprocessing", "license", "test_top1", "training_record_sha256"} <= {
                *record["metadata"]
            }
            served = json.loads(record["metadata"]["preprocessing"])
            assert served.keys() == {
                *("height", "width", "channels", "resize", "crop_share", "mean", "std", "normalised"),
            }
            assert (served["resize"], served["crop_share"], served["normalised"]) == ("bilinear", None, "inside")
            if tensorrt.measurable():
                assert record["parity"] == "not measured: no CUDA device"
        else:
            assert record["status"] == "skipped"
            assert "pip install" in record["reason"]


def test_measurements_depend_on_a_fresh_fingerprint(reproduced):
    stages = read_yaml(reproduced.folder / "dvc.yaml")["stages"]
    assert stages["device"]["always_changed"]
    for name in ("engine", "benchmark"):
        assert "out/device.json" in stages[name]["deps"]


HIDDEN = """
import importlib.metadata, sys
sys.modules["tensorrt_rtx"] = sys.modules["tensorrt"] = sys.modules["openvino"] = None
real = importlib.metadata.version
def version(name):
    if name.replace("_", "-").startswith(("tensorrt", "openvino")):
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
"""


@pytest.mark.slow
@pytest.mark.skipif(tensorrt.available() is None, reason="no TensorRT library to hide")
def test_a_library_installed_later_brings_its_files(reproduced, tmp_path):
    """As if TensorRT and OpenVINO were not installed, then installed: `sitecustomize` hides them from every stage."""

    def pairs():
        return json.loads((reproduced.out / "convert" / "int8" / "convert.json").read_text())["pairs"].keys()

    engine, before = reproduced.out / "engines" / "fp32", pairs()
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    without = reproduced.run("dvc", "repro", afresh=True, PYTHONPATH=str(tmp_path)).stdout
    assert {"convert@int8", "engine@fp32", "engine@fp16", "benchmark", "bundle", "report"} <= set(ran(without))
    assert pairs() == before - {"openvino"}
    assert "no TensorRT library can build here; `pip install" in without
    assert not (engine / "model.engine").exists()
    assert "not measured: no TensorRT library" in (reproduced.out / "benchmark" / "latency.json").read_text()
    reproduced.run("dvc", "repro")
    assert (engine / "model.engine").is_file()
    assert pairs() == before > {"onnxruntime"}


def test_latency_rows_are_measured_or_say_why(reproduced):
    latency = json.loads((reproduced.out / "benchmark" / "latency.json").read_text())
    assert latency["device"] == json.loads((reproduced.out / "device.json").read_text())
    for row in latency["rows"]:
        if row["runtime"] == "onnxruntime":
            assert row["status"] == "measured"
            assert row["samples"] >= 70
        else:
            assert row["status"] == "measured" or row["status"].startswith("not measured: ")


def test_the_unsigned_manifest_names_every_files_digest(reproduced):
    bundle = reproduced.out / "bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["signed"] is False
    on_disk = {str(path.relative_to(bundle)): path for path in bundle.rglob("*") if path.is_file()}
    assert manifest["files"].keys() == on_disk.keys() - {"manifest.json"}
    for name, facts in manifest["files"].items():
        assert hashlib.sha256(on_disk[name].read_bytes()).hexdigest() == facts["sha256"]


def test_the_golden_pairs_hold_for_the_bundle(reproduced):
    from rsd.export.runtimes.onnxruntime import logits_of

    golden = reproduced.out / "bundle" / "golden"
    images = np.load(golden / "images.npy")
    for precision in ("fp32", "fp16", "int8"):
        result = logits_of(reproduced.out / "bundle" / precision / "model.onnx", images)
        assert np.allclose(result, np.load(golden / f"logits.{precision}.onnxruntime.npy"), atol=1e-3)


def test_table_and_report_show_teacher_students_and_files(reproduced):
    table = reproduced.run("rsd", "table").stdout
    for word in ("teacher", "scratch", "rsd", "fp32", "fp16", "int8", "out/report.html"):
        assert word in table, table
    assert (reproduced.out / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("dvc metrics show", ["evaluate/metrics.json", "rsd.gain_over_scratch", "teacher.top1"]),
        ("dvc exp show --csv", ["method.rsd.weight", "rsd.top1"]),
        ("dvc dag --mermaid --collapse-foreach-matrix", ["distill", "evaluate"]),
    ],
)
def test_dvcs_own_commands_print_something_useful(reproduced, command, words):
    output = reproduced.run(*command.split()).stdout
    for word in words:
        assert word in output, output[:2000]


def test_every_plot_that_dvc_shows_is_drawn(reproduced):
    shown = json.loads(reproduced.run("dvc", "plots", "show", "--json").stdout)
    assert shown.keys() == {"data"}  # it would have `errors`
    students, models = ("scratch-0", "rsd-0"), ("teacher", "scratch-0", "rsd-0")
    curves = {f"out/students/{name}/history.csv" for name in students}
    assert shown["data"].keys() == curves | {f"out/evaluate/confusion/{name}.csv" for name in models}
    for name, (plot,) in shown["data"].items():
        svg = vl_convert.vegalite_to_svg(plot["content"])
        if name in curves:
            longest = max(path.count("L") for path in re.findall(r' d="(M[^"]*)"', svg))
            assert longest == TINY["override"]["recipe"]["epochs"] - 1
        else:
            assert {f">{digit}<" for digit in range(10)} <= set(re.findall(r">\d<", svg))


def test_a_teacher_from_a_file_needs_no_recipe(reproduced):
    params = reproduced.folder / "params.yaml"
    before = params.read_text()
    weights = reproduced.out / "teacher" / "model.safetensors"
    mine = reproduced.folder / "mine" / "model.safetensors"
    shutil.copytree(weights.parent, mine.parent)
    pair = read_yaml(reproduced.folder / "conf" / "pair" / "digits" / "few-labels.yaml")
    pair["teacher"] |= {"source": "file", "weights": "mine"}
    del pair["teacher"]["recipe"]
    try:
        (reproduced.folder / "conf" / "pair" / "mine.yaml").write_text(json.dumps(pair))
        override = {name: values for name, values in TINY["override"].items() if name != "teacher_recipe"}
        reproduced.edit("params.yaml", pair="mine", override=override)
        reproduced.run("dvc", "repro", "teacher")
        assert json.loads((reproduced.out / "teacher" / "model.json").read_text())["source"] == "file"
        assert weights.read_bytes() == mine.read_bytes()

        # Replaced in place by other weights it is read again; touched it is not.
        mine.touch()
        assert ran(reproduced.run("dvc", "repro", "teacher").stdout) == ["sources"]
        state = {name: tensor * 2 for name, tensor in load_file(weights).items()}
        save_file(state, mine)
        assert ran(reproduced.run("dvc", "repro", "teacher").stdout) == ["sources", "teacher"]
        assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(weights).items())
    finally:
        params.write_text(before)
        (reproduced.folder / "conf" / "pair" / "mine.yaml").unlink()
        reproduced.run("dvc", "repro", "embed")


def test_other_epochs_keep_the_view_store(reproduced):
    params = reproduced.folder / "params.yaml"
    before = params.read_text()
    try:
        override = TINY["override"] | {"recipe": {"epochs": 7, "warmup_epochs": 1}}
        reproduced.edit("params.yaml", override=override)
        assert ran(reproduced.run("dvc", "repro", "embed").stdout) == ["params", "sources"]
    finally:
        params.write_text(before)
        reproduced.run("dvc", "repro", "embed")


def test_another_number_of_workers_computes_nothing_anew(reproduced):
    params = reproduced.folder / "params.yaml"
    before = params.read_text()
    try:
        reproduced.edit("params.yaml", compute=parse_yaml(before, "params.yaml")["compute"] | {"workers": 1})
        assert ran(reproduced.run("dvc", "repro", "evaluate", "export").stdout) == ["params", "sources", "students"]
    finally:
        params.write_text(before)
        reproduced.run("dvc", "repro", "embed")


def test_another_weight_reruns_the_rsd_student_only(reproduced):
    reproduced.run("git", "add", "-A")
    reproduced.run("git", "commit", "-qm", "first run")
    try:
        cells = ["distill@scratch-0", "distill@rsd-0"]
        output = reproduced.run("dvc", "exp", "run", "-S", "method.rsd.weight=0.2", *cells).stdout
        assert "distill@rsd-0" in ran(output)
        assert "distill@scratch-0" not in ran(output)
        difference = reproduced.run("dvc", "params", "diff", "HEAD").stdout
        assert re.search(r"method\.rsd\.weight\s+0\.1\s+0\.2", difference), difference
        rows = list(csv.DictReader(io.StringIO(reproduced.run("dvc", "exp", "show", "--csv").stdout)))
        assert {"0.1", "0.2"} <= {row["method.rsd.weight"] for row in rows}
    finally:
        reproduced.run("git", "reset", "-q", "--hard")
        reproduced.run("dvc", "checkout", "-q", "--force")
