"""The chosen student -> out/export/PRECISION/: one ONNX graph, held to what PyTorch says on real test images."""

import argparse
import json
from typing import Any

import numpy as np
import torch

from rsd.export.ladder import Ladder
from rsd.export.onnx import ExportOptions, save, trace
from rsd.export.strip import AsTrained
from rsd.machine.compute import ComputeOptions
from rsd.machine.files import sha256, write_json, written_aside
from rsd.models.timm_model import load_trained, normalizer, parameter_count
from rsd.release.golden import preprocessing
from rsd.run.paths import Run
from rsd.sources.images import read_record, read_split
from stages import OUT, run, section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["fp32", "fp16", "int8"])
    precision = parser.parse_args().precision
    options = section("export", ExportOptions)
    threads = section("compute", ComputeOptions).threads
    torch.set_num_threads(threads)

    name = Run(OUT).shipped().student.name
    student = OUT / "students" / name
    model, record = load_trained(student, "student")
    data = read_record(OUT / "data")
    ladder = Ladder(model, normalizer(record), read_split(OUT / "data", "test"), options.gates, threads=threads)
    ladder.stripped(AsTrained(student, OUT / "teacher", image_count=data.counts["train"]))
    traced = trace(
        model,
        mean=record["mean"],
        std=record["std"],
        image_shape=data.image_shape,
        classes=len(record["classes"]),
        opset=options.opset,
        ir_version=options.ir_version,
    )
    ladder.fp32(traced, whole=precision == "fp32")
    proto, made = traced.proto, dict[str, Any]()
    if precision == "fp16":
        proto = ladder.fp16(traced)
    elif precision == "int8":
        train, validation = read_split(OUT / "data", "train"), read_split(OUT / "data", "validation")
        proto, made["int8"] = ladder.int8(traced, options.int8, train=train, validation=validation)

    parity = ladder.records[-1]
    about: dict[str, Any] = {
        "student": name,
        "precision": precision,
        "license": options.license,
        "classes": record["classes"],
        "preprocessing": preprocessing(data) | {"mean": record["mean"], "std": record["std"], "normalised": "inside"},
        "validation_top1": round(record["validation"]["top1"], 2),
        "test_top1": round(100 * parity["accuracy"], 2),
        "training_record_sha256": sha256(student / "student.json"),
        "weights_sha256": sha256(student / "student.safetensors"),
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    with written_aside(OUT / "export" / precision) as aside:
        path = aside / "model.onnx"
        save(proto, path, metadata={"model": record["model"]["name"], **texts})
        assert ladder.logits is not None
        np.save(aside / "logits.npy", ladder.logits)
        file = {
            "parameters": parameter_count(model),
            "opset": options.opset,
            "ir_version": options.ir_version,
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        write_json(aside / "export.json", {**about, **file, **made, "parity": parity, "ladder": ladder.records})
    agreement = f"{100 * parity['top1_agreement']:.2f} %"
    print(f"{precision}: {name}, same first class as PyTorch on {agreement} of test images")
    if in_float := made.get("int8", {}).get("in_float"):
        print(f"kept in float: {', '.join(harm['node'] for harm in in_float)}")


if __name__ == "__main__":
    run(main)
