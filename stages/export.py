"""The chosen student -> out/export/PRECISION/: one ONNX graph, held to what PyTorch says on real test images."""

import argparse
import json

import numpy as np
import torch

from rsd.data.images import read_record, read_split
from rsd.export.onnx import ExportOptions, export_onnx
from rsd.export.parity import check, compare, logits_of
from rsd.files import read_json, sha256, write_json, written_aside
from rsd.models import PixelNormalize, load_trained, parameter_count, predict
from stages import OUT, run, section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["fp32", "fp16"])
    precision = parser.parse_args().precision
    options = section("export", ExportOptions)
    chosen = read_json(OUT / "params" / "run.json")
    torch.set_num_threads(1)

    name = best_student(options.method, chosen["seeds"])
    model, record = load_trained(OUT / "students" / name, "student")
    preprocessing = {key: record[key] for key in ("height", "width", "mean", "std")}
    data = read_record(OUT / "data")
    test = read_split(OUT / "data", "test")
    folder = OUT / "export" / precision
    with written_aside(folder) as aside:
        path = aside / "model.onnx"
        export_onnx(
            model,
            mean=record["mean"],
            std=record["std"],
            image_shape=data.image_shape,
            classes=len(record["classes"]),
            precision=precision,
            opset=options.opset,
            ir_version=options.ir_version,
            metadata={
                "student": name,
                "model": record["model"]["name"],
                "classes": json.dumps(record["classes"]),
                "preprocessing": json.dumps(preprocessing),
                "validation_top1": f"{record['validation']['top1']:.2f}",
            },
            path=path,
        )
        expected = predict(model, PixelNormalize(record["mean"], record["std"]), test.images, batch_size=256).logits
        logits = logits_of(path, test.images)
        np.save(aside / "logits.npy", logits)
        parity = compare(expected.numpy(), logits, test.labels)
        check(parity, precision, options.gates)
        write_json(
            aside / "export.json",
            {
                "student": name,
                "precision": precision,
                "parameters": parameter_count(model),
                "classes": record["classes"],
                "preprocessing": preprocessing,
                "bytes": path.stat().st_size,
                "sha256": sha256(path),
                "parity": parity,
            },
        )
    print(f"{precision}: {name}, same first class as PyTorch on {100 * parity['top1_agreement']:.2f} % of test images")


def best_student(method: str, seeds: list[int]) -> str:
    """The method's student with the best validation accuracy; the smaller loss breaks ties. Test has no say."""

    def merit(seed: int) -> tuple[float, float]:
        validation = read_json(OUT / "students" / f"{method}-{seed}" / "student.json")["validation"]
        return validation["top1"], -validation["loss"]

    return f"{method}-{max(seeds, key=merit)}"


if __name__ == "__main__":
    run(main)
