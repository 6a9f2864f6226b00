"""To add a precision or a runtime is to add one file; nothing else of the code is edited."""

import json
import shutil
from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch

from rsd.export.graph import save
from rsd.export.trace import trace
from rsd.machine.files import sha256, write_array, write_json
from rsd.machine.yaml_file import read_yaml
from rsd.run.paths import Run
from rsd.run.records import EngineRecord, ExportRecord, GraphInput
from rsd.sources.images import write_arrays
from tests.rsd.export.conftest import MEAN, STD, File, squares, tiny_model
from tests.rsd.models.small import dataset
from tests.stages.conftest import ROOT, TINY, Project

BF16 = '''
"""Weights rounded to bfloat16."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from pydantic import Field

from rsd.export.precisions.base import Precision
from rsd.machine.options import Options
from rsd.sources.images import Images


class Bf16Options(Options):
    kept_bits: int = Field(16, ge=9, le=32)


class Bf16(Precision[Bf16Options]):
    section = Bf16Options
    limit = 50.0
    tolerance = 5e-2
    golden = 2e-2

    def graph(
        self, graph: onnx.ModelProto, options: Bf16Options, images: Images, *, runs_on: str = "onnxruntime"
    ) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        mask = np.uint32((0xFFFFFFFF << (32 - options.kept_bits)) & 0xFFFFFFFF)
        for tensor in copy.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                bits = numpy_helper.to_array(tensor).view(np.uint32) & mask
                tensor.CopyFrom(numpy_helper.from_array(bits.view(np.float32), tensor.name))
        return copy


PRECISION = Bf16()
'''
REFERENCE = '''
"""The reference evaluator of the ONNX project."""

from contextlib import contextmanager

import numpy as np

from rsd.export.runtimes.base import Runtime


class Session:
    shape = (16, 16, 1)

    def __init__(self, path):
        from onnx.reference import ReferenceEvaluator

        self.evaluator = ReferenceEvaluator(str(path))

    def logits(self, images):
        return self.evaluator.run(None, {"image": np.asarray(images)})[0]

    def call(self, images, way=""):
        return lambda: self.logits(images)


class Reference(Runtime):
    titles = {"": "ONNX reference"}

    def load(self):
        import onnx

        return onnx.__version__

    @contextmanager
    def open(self, path, *, threads=1, onnx=None):
        yield Session(path)


RUNTIME = Reference()
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The code and two files more, params that name them, and an exported student."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("rsd", "stages", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "rsd" / "export" / "precisions" / "bf16.py").write_text(BF16)
    (folder / "rsd" / "export" / "runtimes" / "reference.py").write_text(REFERENCE)
    params = read_yaml(ROOT / "params.yaml") | deepcopy(TINY)
    params |= {"precisions": ["fp32", "bf16"]}
    params["export"] |= {"bf16": {"kept_bits": 14}}
    params["benchmark"] |= {"runtimes": ["onnxruntime", "reference"], "min_samples": 3, "min_seconds": 0.01}
    (folder / "params.yaml").write_text(json.dumps(params))
    project = Project(folder)
    project.stage("params")
    export(Run(project.out))
    return project


def export(run: Run) -> None:
    """What `prepare` and `export` would have written."""
    torch.manual_seed(0)
    images, data = squares(40, 16, 1), dataset(classes=10)
    model = tiny_model("resnet")
    student = File(run.convert_folder("fp32") / "model.onnx", model)
    labels = student.logits(images).argmax(axis=1)
    for split in ("train", "validation", "test"):
        write_arrays(run.data / split, images, labels)
    write_json(run.dataset, data.model_dump(mode="json"))
    traced = trace(model, mean=MEAN, std=STD, image_shape=(16, 16, 1), classes=10, opset=20, ir_version=10)
    path = run.export_folder / "model.onnx"
    save(traced.proto, path, metadata={"student": "rsd-0"})
    write_array(run.export_folder / "logits.npy", student.logits(images))
    run.write(
        ExportRecord(
            student="rsd-0",
            license="MIT",
            classes=data.classes,
            preprocessing=GraphInput(**data.preprocessing.model_dump(), mean=data.mean, std=data.std),
            validation_top1=100.0,
            test_top1=100.0,
            parameters=1,
            opset=20,
            ir_version=10,
            bytes=path.stat().st_size,
            sha256=sha256(path),
            ladder=[],
        )
    )


def test_a_precision_is_one_more_file(project):
    for name in ("fp32", "bf16"):
        project.stage("convert", name)
    record = Run(project.out).converted("bf16")
    assert (record.main.parity.rung, record.main.parity.images) == ("bf16", 40)
    assert record.main.parity.max_difference > Run(project.out).converted("fp32").main.parity.max_difference
    weights = onnx.load(project.out / "convert" / "bf16" / "model.onnx").graph.initializer
    bits = [onnx.numpy_helper.to_array(tensor).view(np.uint32) for tensor in weights if tensor.data_type == 1]
    assert not any((values & 0x3FFFF).any() for values in bits)
    assert "expected names out of bf16, fp16, fp32, int8, found 'fp8'" in refused(project, precisions=["fp8"])


def test_its_gate_is_an_option_of_the_params(project):
    options = json.loads((project.out / "params" / "export.json").read_text())
    assert options["gates"]["bf16_accuracy_delta"] == 50.0
    gates = options["gates"] | {"bf16_accuracy_delta": 0.0}
    project.edit("out/params/export.json", gates=gates, bf16={"kept_bits": 9})
    try:
        assert "the bf16 export loses" in project.stage("convert", "bf16", check=False).stdout
    finally:
        project.edit("out/params/export.json", **options)


def test_a_runtime_is_one_more_file(project):
    run = Run(project.out)
    for name in ("fp32", "bf16"):
        project.stage("convert", name)
        assert run.converted(name).lost == {}
        run.write(EngineRecord(status="skipped", precision=name, library="tensorrt", reason="no GPU"))
    project.stage("device")
    project.stage("benchmark")
    rows = [row for row in run.latency().rows if row.runtime == "reference"]
    assert {(row.precision, row.status) for row in rows} == {("fp32", "measured"), ("bf16", "measured")}
    assert rows[0].cold_start_ms
    pairs = run.converted("bf16").pairs
    assert pairs["reference"].file == pairs["onnxruntime"].file == "model.onnx"
    assert pairs["reference"].parity.max_difference == pytest.approx(pairs["onnxruntime"].parity.max_difference, 1e-3)
    title = "from rsd.report.table import runs_on; print(runs_on('reference', 1))"
    assert project.run("python", "-c", title).stdout.strip() == "ONNX reference, 1 thread"


def refused(project: Project, **changes: object) -> str:
    """What the stage `params` says of other params."""
    params = (project.folder / "params.yaml").read_text()
    try:
        project.edit("params.yaml", **changes)
        return project.stage("params", check=False).stdout
    finally:
        (project.folder / "params.yaml").write_text(params)
