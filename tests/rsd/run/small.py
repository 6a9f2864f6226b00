"""A run of two students, as the stages write it: records without the files that only their stages need."""

from pathlib import Path
from typing import Any

from rsd.machine.files import write_json
from rsd.run import selection
from rsd.run.paths import Run
from rsd.run.records import (
    ConvertRecord,
    DeviceRecord,
    EngineRecord,
    Evaluation,
    EvaluationRecord,
    ExportRecord,
    GraphInput,
    Latency,
    LatencyRecord,
    Model,
    Pair,
    Parity,
    StudentRecord,
    TeacherRecord,
    Timing,
    Validation,
)

CHOICE = {
    "pair": "p",
    "data": "digits",
    "recipe": "r",
    "methods": ["scratch", "rsd"],
    "seeds": [0],
    "precisions": ["fp32", "int8"],
    "ships": "rsd",
}
TRAINED: dict[str, Any] = {
    "model": Model(name="resnet18"),
    "parameters": 10,
    "embedding_width": 4,
    "classes": ["a", "b"],
    "height": 8,
    "width": 8,
    "mean": [0.5],
    "std": [0.5],
    "device": "cpu",
    "versions": {"torch": "2"},
}
TIMING = Timing(min_seconds=1.0, min_samples=1, rounds=1)
INPUT = GraphInput(height=4, width=4, channels=1, resize="bilinear", crop_share=None, mean=[0.5], std=[0.5])
DEVICE = DeviceRecord.model_validate({"cpu": {"name": "x", "logical_cores": 2}, "gpus": []})
PARITY: dict[str, Any] = {
    "against": "stripped",
    "images": 4,
    "max_difference": 0.0,
    "mean_difference": 0.0,
    "logit_range": 1.0,
    "max_difference_share": 0.0,
    "min_cosine": 1.0,
    "top1_agreement": 1.0,
    "disagreements": 0,
    "disagreements_beyond_near_ties": 0,
    "near_tie_share": 0.01,
    "reference_accuracy": 0.5,
    "accuracy": 0.5,
    "accuracy_delta_points": 0.0,
    "accuracy_delta_images": 0,
    "worst_images": [],
}


STUDENT: dict[str, Any] = TRAINED | {
    "model": {"name": "resnet18"},
    "options": {},
    "recipe": {},
    "compute": {},
    "views": 2,
    "extra_parameters": 0,
    "effective_batch_size": 4,
    "steps": 1,
}
"""A student's record, without who it is, its weights and its figures."""
EVALUATED: dict[str, Any] = {
    "parameters": 10,
    "top1": 95.0,
    "top5": 100.0,
    "nll": 0.1,
    "ece": 1.0,
    "agreement": 99.0,
    "per_class": {},
    "images": 4,
    "embedding_width": 4,
}
"""A model on the test split, without who it is and its weights."""


def teacher(weights: str = "t") -> TeacherRecord:
    return TeacherRecord(
        **TRAINED, seed=0, source="pretrain", weights_sha256=weights, validation=Validation(top1=99.0, loss=0.1)
    )


def student(run: Run, method: str, weights: str) -> StudentRecord:
    made_from = run.digests(f"params/method/{method}.json") | {"teacher/model.safetensors": "t"}
    return StudentRecord(
        **STUDENT,
        method=method,
        seed=0,
        validation=Validation(top1=90.0, loss=0.5, epoch=1),
        weights_sha256=weights,
        made_from=made_from,
    )


def index(run: Run) -> None:
    """As the stage `students` does it."""
    students = selection.index(run)
    run.write(students)
    run.write(selection.shipped(students.students, run.choice().ships))


def evaluate(run: Run) -> None:
    rows: list[tuple[str, str, int | None, str]] = [("teacher", "teacher", None, "t")]
    rows += [(one.name, one.method, one.seed, one.weights_sha256) for one in run.index().students]
    models = [
        Evaluation(**EVALUATED, model=name, method=method, seed=seed, weights_sha256=weights)
        for name, method, seed, weights in rows
    ]
    run.write(EvaluationRecord(models=models))


def export(run: Run, sha256: str = "onnx") -> None:
    run.write(
        ExportRecord(
            student="rsd-0",
            license="MIT",
            classes=["a", "b"],
            preprocessing=INPUT,
            validation_top1=90.0,
            test_top1=95.0,
            parameters=10,
            opset=20,
            ir_version=10,
            bytes=100,
            sha256=sha256,
            ladder=[Parity(rung="fp32", **PARITY)],
            made_from=run.shipped().made_from,
        )
    )


def convert(run: Run, precision: str) -> None:
    parity = Parity(rung=precision, **PARITY)
    digest = f"{precision} of {run.export().sha256}"
    run.write(
        ConvertRecord(
            student="rsd-0",
            precision=precision,
            pairs={"onnxruntime": Pair(file="model.onnx", bytes=50, sha256=digest, parity=parity)},
            ladder=[parity],
            made_from=run.export().files,
        )
    )
    run.write(
        EngineRecord(
            status="skipped",
            precision=precision,
            library="tensorrt",
            reason="no GPU",
            made_from=run.converted(precision).files,
        )
    )


def measure(run: Run) -> None:
    row = Latency(file="f", precision="fp32", runtime="onnxruntime", threads=1, scenario="s", batch=1, status="x")
    made_from = run.converted("fp32").files | run.converted("int8").files
    run.write(LatencyRecord(device=DEVICE, conditions={}, options=TIMING, rows=[row], made_from=made_from))


def whole_run(folder: Path) -> Run:
    """Everything written, in the order of the stages."""
    run = Run(folder)
    write_json(run.params / "run.json", CHOICE)
    for method in ("scratch", "rsd"):
        write_json(run.params / "method" / f"{method}.json", {})
    run.write(teacher())
    run.write(student(run, "scratch", "s"))
    run.write(student(run, "rsd", "r"))
    index(run)
    evaluate(run)
    export(run)
    for precision in ("fp32", "int8"):
        convert(run, precision)
    measure(run)
    return run
