"""The exported graph -> out/convert/PRECISION/: files of one precision, held in each runtime to what PyTorch says."""

import argparse
import json
from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx

from rsd.export import precisions, runtimes
from rsd.export.divergence import graph_values, strays
from rsd.export.graph import save
from rsd.export.ladder import Ladder
from rsd.export.options import export_options
from rsd.export.precisions.base import Exported
from rsd.export.run_graph import PASSES_OFF
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.machine.files import sha256, write_array
from rsd.run.names import LOGITS, ONNX
from rsd.run.records import ConvertRecord, Pair, Stray
from rsd.sources.images import LabelledImages, read_split
from stages import OUT, run

LOOKED_AT = 8
"""Validation images of which every value within a graph is compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=precisions.names())
    name = parser.parse_args().precision
    options, threads = OUT.section("export", export_options()), OUT.section("compute", ComputeOptions).threads
    exported = OUT.export()
    graph = onnx.load(OUT.export_folder / ONNX)
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    expected = np.load(OUT.export_folder / LOGITS, allow_pickle=False)
    test, splits, folder = read_split(OUT.data, "test"), partial(read_split, OUT.data), OUT.convert_folder(name)
    files: dict[str, onnx.ModelProto] = {}
    pairs: dict[str, Pair] = {}
    lost: dict[str, str] = {}
    for runtime in runtimes.paired():
        builds = runtimes.get(runtime).builds
        if builds and not precisions.get(name).by_runtime:  # what ONNX Runtime computes for it is the same, too
            pairs[runtime] = pairs[runtimes.MAIN]
            continue
        if not builds and (reason := runtimes.get(runtime).missing()):
            lost[runtime] = reason
            continue
        ladder = Ladder(expected, test, runs_on=runtime, threads=threads)
        source = Exported(graph, exported.parts, ladder, options.gate(name), splits)
        try:
            converted = precisions.get(name).convert(source, options.of(name))
        except UserError as error:
            if runtime == runtimes.MAIN:
                raise
            lost[runtime] = str(error)
            print(f"{name} is not shipped for {runtimes.get(runtime).titles['']}: {error}")
            continue
        shared = (file for file, other in files.items() if other == converted.graph)
        file = next(shared, f"{runtime}.onnx" if files else ONNX)
        if file not in files:
            files[file] = converted.graph
            top1 = json.dumps(round(100 * converted.parity.accuracy, 2))
            save(converted.graph, folder / file, metadata=metadata | {"precision": name, "test_top1": top1})
        write_array(folder / (LOGITS if runtime == runtimes.MAIN else f"{runtime}.{LOGITS}"), converted.logits)
        pairs[runtime] = Pair(
            file=file,
            bytes=(folder / file).stat().st_size,
            sha256=sha256(folder / file),
            parity=converted.parity,
            passes_off=[*PASSES_OFF] if builds else [],
            details=converted.details,
            strays=strays_of(graph, converted.graph, splits("validation"), exported.parts),
        )
        title = runtimes.get(runtime).titles[""]
        agreement = f"{100 * converted.parity.top1_agreement:.2f} %"
        print(f"{name} for {title}: same first class as PyTorch on {agreement} of test images")
        if converted.note:
            print(converted.note)
    ladder_of_main = [rung for rung in exported.ladder if rung.rung != name] + [pairs[runtimes.MAIN].parity]
    OUT.write(
        ConvertRecord(
            student=exported.student,
            precision=name,
            ladder=ladder_of_main,
            pairs=pairs,
            lost=lost,
            made_from=exported.files,
        )
    )


def strays_of(
    exact: onnx.ModelProto, graph: onnx.ModelProto, split: LabelledImages, parts: Mapping[str, str]
) -> list[Stray]:
    """How far the values within a graph lie from those in fp32."""
    if graph == exact:
        return []
    images = split.images[:LOOKED_AT]
    errors = strays(graph_values(exact, images), graph_values(graph, images))
    return [Stray(value=name, part=parts.get(name, ""), error=error) for name, error in errors.items()]


if __name__ == "__main__":
    run(main)
