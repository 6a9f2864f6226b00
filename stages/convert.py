"""The exported graph -> out/convert/PRECISION/: files of one precision, held in each runtime to what PyTorch says."""

import argparse
import json
from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx

from rsd.export import divergence, precisions, runtimes
from rsd.export.graph import save
from rsd.export.ladder import Ladder
from rsd.export.options import export_options
from rsd.export.precisions.base import Converted, Exported
from rsd.export.run_graph import PASSES_OFF
from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.machine.files import sha256, write_array
from rsd.run.names import LOGITS, ONNX
from rsd.run.records import ConvertRecord, ExportRecord, Pair, Stray
from rsd.sources.images import read_split
from stages import OUT, run

LOOKED_AT = 8  # validation images of which every value within a graph is compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=precisions.names())
    name = parser.parse_args().precision
    exported, graph = OUT.export(), onnx.load(OUT.export_folder / ONNX)
    files: dict[str, onnx.ModelProto] = {}
    pairs: dict[str, Pair] = {}
    lost: dict[str, str] = {}
    for runtime in runtimes.paired():
        if runtimes.get(runtime).builds and not precisions.get(name).by_runtime:
            pairs[runtime] = pairs[runtimes.MAIN]  # what ONNX Runtime would compute in its place is the same
            continue
        title = runtimes.get(runtime).titles[""]
        try:
            converted = convert(name, runtime, exported, graph)
        except UserError as error:
            if runtime == runtimes.MAIN:
                raise
            lost[runtime] = str(error)
            print(f"{name} is not shipped for {title}: {error}")
            continue
        shared = (file for file, other in files.items() if other == converted.graph)
        file = next(shared, f"{runtime}.onnx" if files else ONNX)
        if file not in files:
            files[file] = converted.graph
            write(name, file, converted, graph)
        pairs[runtime] = pair(name, runtime, file, converted, strays_of(graph, converted.graph, exported.parts))
        agreement = f"{100 * converted.parity.top1_agreement:.2f} %"
        print(f"{name} for {title}: same first class as PyTorch on {agreement} of test images")
        if converted.note:
            print(converted.note)
    OUT.write(
        ConvertRecord(
            student=exported.student,
            precision=name,
            ladder=[rung for rung in exported.ladder if rung.rung != name] + [pairs[runtimes.MAIN].parity],
            pairs=pairs,
            lost=lost,
            made_from=exported.files,
        )
    )


def convert(name: str, runtime: str, exported: ExportRecord, graph: onnx.ModelProto) -> Converted:
    """The graph in a precision for a runtime, held to its gate there; UserError if that is missed, or none is here."""
    if not runtimes.get(runtime).builds and (reason := runtimes.get(runtime).missing()):
        raise UserError(reason)
    options, threads = OUT.section("export", export_options()), OUT.section("compute", ComputeOptions).threads
    expected = np.load(OUT.export_folder / LOGITS, allow_pickle=False)
    ladder = Ladder(expected, read_split(OUT.data, "test"), runs_on=runtime, threads=threads)
    source = Exported(graph, exported.parts, ladder, options.gate(name), partial(read_split, OUT.data))
    return precisions.get(name).convert(source, options.of(name))


def write(name: str, file: str, converted: Converted, graph: onnx.ModelProto) -> None:
    """Write a file, with what the exported graph says of itself."""
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    top1 = json.dumps(round(100 * converted.parity.accuracy, 2))
    save(converted.graph, OUT.convert_folder(name) / file, metadata=metadata | {"precision": name, "test_top1": top1})


def pair(name: str, runtime: str, file: str, converted: Converted, strays: list[Stray]) -> Pair:
    """Write the logits of a file in a runtime; the pair's entry in the record."""
    path = OUT.convert_folder(name) / file
    write_array(path.with_name(LOGITS if runtime == runtimes.MAIN else f"{runtime}.{LOGITS}"), converted.logits)
    return Pair(
        file=file,
        bytes=path.stat().st_size,
        sha256=sha256(path),
        parity=converted.parity,
        passes_off=[*PASSES_OFF] if runtimes.get(runtime).builds else [],
        details=converted.details,
        strays=strays,
    )


def strays_of(exact: onnx.ModelProto, graph: onnx.ModelProto, parts: Mapping[str, str]) -> list[Stray]:
    """How far the values within a graph lie from those in fp32."""
    if graph == exact:
        return []
    images = read_split(OUT.data, "validation").images[:LOOKED_AT]
    values = divergence.graph_values(exact, images), divergence.graph_values(graph, images)
    errors = divergence.strays(*values)
    return [Stray(value=name, part=parts.get(name, ""), error=error) for name, error in errors.items()]


if __name__ == "__main__":
    run(main)
