"""The exported graph -> out/convert/PRECISION/: the file of one precision, held to what PyTorch says of test images."""

import argparse
import json
from functools import partial

import numpy as np
import onnx

from rsd.export import precisions
from rsd.export.graph import save
from rsd.export.ladder import Ladder
from rsd.export.options import export_options
from rsd.export.precisions.base import Exported
from rsd.machine.compute import ComputeOptions
from rsd.machine.files import sha256, write_array
from rsd.run.names import LOGITS, ONNX
from rsd.run.records import ConvertRecord
from rsd.sources.images import read_split
from stages import OUT, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=precisions.names())
    name = parser.parse_args().precision
    options, threads = OUT.section("export", export_options()), OUT.section("compute", ComputeOptions).threads
    exported = OUT.export()
    graph = onnx.load(OUT.export_folder / ONNX)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    expected = np.load(OUT.export_folder / LOGITS, allow_pickle=False)
    ladder = Ladder(expected, read_split(OUT.data, "test"), threads=threads)
    source = Exported(graph, exported.parts, ladder, options.gate(name), partial(read_split, OUT.data))
    converted = precisions.get(name).convert(source, options.of(name))

    parity, path = converted.parity, OUT.onnx(name)
    test_top1 = round(100 * parity.accuracy, 2)
    save(converted.graph, path, metadata=metadata | {"precision": name, "test_top1": json.dumps(test_top1)})
    write_array(path.with_name(LOGITS), converted.logits)
    OUT.write(
        ConvertRecord(
            student=exported.student,
            precision=name,
            test_top1=test_top1,
            bytes=path.stat().st_size,
            sha256=sha256(path),
            parity=parity,
            ladder=[rung for rung in exported.ladder if rung.rung != name] + [parity],
            details=converted.details,
            made_from=exported.files,
        )
    )
    print(f"{name}: same first class as PyTorch on {100 * parity.top1_agreement:.2f} % of test images")
    if converted.note:
        print(converted.note)


if __name__ == "__main__":
    run(main)
