"""The student that ships -> out/export/: stripped and traced once to ONNX in float32, and held to PyTorch.

Its gates are judged on the test images. `parts.json` says which part of the PyTorch model each value of the graph comes
from, and `reference.npy` holds PyTorch's own logits: the stage `convert` needs no PyTorch.
"""

import json

import numpy as np
import torch

from rsd.export.divergence import parts
from rsd.export.graph import save
from rsd.export.ladder import Ladder
from rsd.export.options import ExportOptions
from rsd.export.strip import AsTrained, judge_stripped, judge_traced
from rsd.export.trace import trace
from rsd.machine.compute import ComputeOptions
from rsd.machine.files import sha256, write_json, written_aside
from rsd.models.timm_model import load_trained, normalizer, parameter_count, predict
from rsd.run.paths import Run
from rsd.run.records import ExportRecord
from rsd.sources.images import preprocessing, read_record, read_split
from stages import OUT, run


def main() -> None:
    here = Run(OUT)
    options = here.section("export", ExportOptions)
    threads = here.section("compute", ComputeOptions).threads
    torch.set_num_threads(threads)

    shipped = here.shipped()
    folder = here.student_folder(shipped.student.name)
    model, record = load_trained(folder, "student")
    data, test, normalize = read_record(here.data), read_split(here.data, "test"), normalizer(record)
    expected = predict(model, normalize, test.images, batch_size=256).logits.numpy()
    ladder = Ladder(test, expected, options.gates, threads=threads)
    trained = AsTrained(folder, here.teacher_folder, image_count=data.counts["train"])
    judge_stripped(ladder, model, normalize, trained)
    traced = trace(
        model,
        mean=record["mean"],
        std=record["std"],
        image_shape=data.image_shape,
        classes=len(record["classes"]),
        opset=options.opset,
        ir_version=options.ir_version,
    )
    judge_traced(ladder, traced)
    parity = ladder.records[-1]
    about = {
        "student": shipped.student.name,
        "license": options.license,
        "classes": record["classes"],
        "preprocessing": preprocessing(data) | {"mean": record["mean"], "std": record["std"], "normalised": "inside"},
        "validation_top1": round(record["validation"]["top1"], 2),
        "test_top1": round(100 * parity.accuracy, 2),
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    texts |= {
        "precision": "fp32",
        "model": record["model"]["name"],
        "training_record_sha256": shipped.student.record_sha256,
        "weights_sha256": shipped.student.weights_sha256,
    }
    with written_aside(here.export_folder) as aside:
        path = aside / "model.onnx"
        save(traced.proto, path, metadata=texts)
        np.save(aside / "logits.npy", np.asarray(ladder.logits))
        np.save(aside / "reference.npy", expected)
        write_json(aside / "parts.json", parts(traced.program))
        export = ExportRecord(
            **about,
            parameters=parameter_count(model),
            opset=options.opset,
            ir_version=options.ir_version,
            bytes=path.stat().st_size,
            sha256=sha256(path),
            ladder=ladder.records,
            made_from=shipped.made_from | here.digests("data/dataset.json"),
        )
        write_json(aside / "export.json", export.content())
    agreement = f"{100 * parity.top1_agreement:.2f} %"
    print(f"{shipped.student.name}: same first class as PyTorch on {agreement} of test images")


if __name__ == "__main__":
    run(main)
