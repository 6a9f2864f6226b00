"""The shipped student -> out/export/: without its training-only module, traced once to ONNX in float32."""

import json

import torch

from rsd.export.graph import save
from rsd.export.ladder import Ladder
from rsd.export.options import export_options
from rsd.export.pytorch_values import parts
from rsd.export.strip import AsTrained, judge_stripped
from rsd.export.student_gate import StudentGate
from rsd.export.trace import judge_traced, trace
from rsd.machine.compute import ComputeOptions
from rsd.machine.files import sha256, write_array
from rsd.models.folder import load_trained
from rsd.models.make import parameter_count
from rsd.models.predict import predict
from rsd.run.names import LOGITS, ONNX
from rsd.run.records import ExportRecord, GraphInput
from rsd.sources.images import read_record, read_split
from stages import OUT, run


def main() -> None:
    options = OUT.section("export", export_options())
    threads = OUT.section("compute", ComputeOptions).threads
    torch.set_num_threads(threads)
    shipped = OUT.shipped()
    record = OUT.student(shipped.student.method, shipped.student.seed)
    model, normalize, _ = load_trained(record.folder)
    data, test = read_record(OUT.data), read_split(OUT.data, "test")
    expected = predict(model, normalize, test.images, batch_size=256).logits.numpy()
    OUT.section("student_gate", StudentGate).check(record.name, expected, test.labels, record.classes)
    ladder = Ladder(expected, test, threads=threads)
    as_trained = AsTrained(record, OUT.teacher_folder, image_count=data.counts["train"])
    stripped = judge_stripped(ladder, options.gate("stripped"), model, normalize, as_trained)
    traced = trace(
        model,
        mean=record.mean,
        std=record.std,
        image_shape=data.image_shape,
        classes=len(record.classes),
        opset=options.opset,
        ir_version=options.ir_version,
    )
    parity = judge_traced(ladder, options.gate("fp32"), traced)

    path = OUT.export_folder / ONNX
    made_from = shipped.made_from | OUT.digests(OUT.dataset)
    served = GraphInput(**data.preprocessing.model_dump(), mean=record.mean, std=record.std)
    about = {
        "student": record.name,
        "license": options.license,
        "classes": record.classes,
        "preprocessing": served.model_dump(),
        "validation_top1": round(record.validation.top1, 2),
        "test_top1": round(100 * parity.accuracy, 2),
    }
    origin = {"training_record_sha256": shipped.student.record_sha256, "weights_sha256": shipped.student.weights_sha256}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    save(traced.proto, path, metadata={"model": record.model.name, "precision": "fp32", **origin, **texts})
    write_array(OUT.export_folder / LOGITS, expected)
    OUT.write(
        ExportRecord(
            **about,
            parameters=parameter_count(model),
            opset=options.opset,
            ir_version=options.ir_version,
            bytes=path.stat().st_size,
            sha256=sha256(path),
            ladder=[stripped, parity],
            parts=parts(traced.program),
            made_from=made_from,
        )
    )
    print(f"{record.name}: same first class as PyTorch on {100 * parity.top1_agreement:.2f} % of test images")


if __name__ == "__main__":
    run(main)
