"""The exported graph -> out/convert/PRECISION/: the file that devices get, held to its gate on the test images."""

import argparse
from typing import Any

import numpy as np
import onnx

from rsd.export.graph import save
from rsd.export.ladder import Ladder
from rsd.export.options import ExportOptions
from rsd.machine.compute import ComputeOptions
from rsd.machine.files import read_json, sha256, write_json, written_aside
from rsd.run.paths import Run
from rsd.run.records import ConvertRecord
from rsd.sources.images import read_split
from stages import OUT, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["fp32", "fp16", "int8"])
    precision = parser.parse_args().precision
    here = Run(OUT)
    options, export = here.section("export", ExportOptions), here.export()
    threads = here.section("compute", ComputeOptions).threads
    graph, named = onnx.load(here.export_folder / "model.onnx"), read_json(here.export_folder / "parts.json")
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    reference = np.load(here.export_folder / "reference.npy", allow_pickle=False)
    ladder = Ladder(read_split(here.data, "test"), reference, options.gates, threads=threads)
    details: dict[str, Any] = {}
    if precision == "fp32":
        parity, logits = export.ladder[-1], np.load(here.export_folder / "logits.npy", allow_pickle=False)
    else:
        if precision == "fp16":
            graph = ladder.fp16(graph, named)
        else:
            train, validation = read_split(here.data, "train"), read_split(here.data, "validation")
            graph, details = ladder.int8(graph, named, options.int8, train=train, validation=validation)
        assert ladder.logits is not None  # the last rung is judged on every test image
        parity, logits = ladder.records[-1], ladder.logits
    top1 = round(100 * parity.accuracy, 2)
    with written_aside(here.convert_folder(precision)) as aside:
        path = aside / "model.onnx"
        save(graph, path, metadata=metadata | {"precision": precision, "test_top1": str(top1)})
        np.save(aside / "logits.npy", logits)
        record = ConvertRecord(
            student=export.student,
            precision=precision,
            test_top1=top1,
            bytes=path.stat().st_size,
            sha256=sha256(path),
            parity=parity,
            ladder=export.ladder if precision == "fp32" else [*export.ladder, parity],
            details=details,
            made_from=export.files | here.digests("data/dataset.json"),
        )
        write_json(aside / "convert.json", record.content())
    agreement = f"{100 * parity.top1_agreement:.2f} %"
    print(f"{precision}: {export.student}, same first class as PyTorch on {agreement} of test images")
    if in_float := details.get("in_float"):
        print(f"kept in float: {', '.join(harm['node'] for harm in in_float)}")


if __name__ == "__main__":
    run(main)
