"""The exported graph -> out/convert/PRECISION/: the file of one precision, held to what PyTorch says of test images."""

import argparse
import json
from typing import Any

import numpy as np
import onnx

from rsd.export.graph import save
from rsd.export.ladder import Conversion, Ladder
from rsd.export.options import ExportOptions
from rsd.machine.compute import ComputeOptions
from rsd.machine.files import sha256, write_array
from rsd.run.paths import Run
from rsd.run.records import ConvertRecord
from rsd.sources.images import read_split
from stages import OUT, run, section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["fp32", "fp16", "int8"])
    precision = parser.parse_args().precision
    options = section("export", ExportOptions)
    here = Run(OUT)
    exported = here.export()
    source = onnx.load(here.export_folder / "model.onnx")
    metadata = {entry.key: entry.value for entry in source.metadata_props}
    expected = np.load(here.export_folder / "logits.npy", allow_pickle=False)
    threads = section("compute", ComputeOptions).threads
    ladder = Ladder(expected, read_split(here.data, "test"), options.gates, threads=threads)
    conversion, details = Conversion(ladder, source, exported.parts), dict[str, Any]()
    if precision == "fp32":
        proto, logits = conversion.fp32()
    elif precision == "fp16":
        proto, logits = conversion.fp16()
    else:
        train, validation = read_split(here.data, "train"), read_split(here.data, "validation")
        proto, logits, details = conversion.int8(options.int8, train=train, validation=validation)

    (parity,) = ladder.records
    test_top1 = round(100 * parity.accuracy, 2)
    path = here.onnx(precision)
    save(proto, path, metadata=metadata | {"precision": precision, "test_top1": json.dumps(test_top1)})
    write_array(path.with_name("logits.npy"), logits)
    here.write(
        ConvertRecord(
            student=exported.student,
            precision=precision,
            test_top1=test_top1,
            bytes=path.stat().st_size,
            sha256=sha256(path),
            parity=parity,
            ladder=[rung for rung in exported.ladder if rung.rung != precision] + [parity],
            details=details,
            made_from=exported.files,
        )
    )
    print(f"{precision}: same first class as PyTorch on {100 * parity.top1_agreement:.2f} % of test images")
    if in_float := details.get("in_float"):
        print(f"kept in float: {', '.join(harm['node'] for harm in in_float)}")


if __name__ == "__main__":
    run(main)
