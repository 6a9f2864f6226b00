"""ONNX -> out/engines/PRECISION/: a TensorRT engine and its record, or a record that says why there is none."""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from rsd.export import precisions
from rsd.export.engine_parity import engine_parity, engine_parting
from rsd.export.options import export_options
from rsd.export.parity import GateError
from rsd.export.refusals import RefusedGraphError
from rsd.export.runtimes import BUILDER
from rsd.export.tensorrt import EngineOptions, available, build, skipped
from rsd.machine.errors import UserError
from rsd.machine.files import written_aside
from rsd.run.names import BUILD_LOG, ENGINE
from rsd.run.records import Comparison, EngineRecord
from rsd.sources.images import read_split
from stages import OUT, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=precisions.names())
    precision = parser.parse_args().precision
    options = OUT.section("engine", EngineOptions)
    with written_aside(OUT.engine_folder(precision)) as aside:
        aside.mkdir()
        log = OUT.logs / f"engine-{precision}.log"  # stays there if the build fails
        lost = OUT.converted(precision).lost.get(BUILDER)
        onnx = None if lost else OUT.onnx(precision, BUILDER)
        if onnx:
            record = record_of(onnx, aside / ENGINE, options, precision=precision, log=log)
        else:
            record = skipped(options.library, precision, lost)
        if record.status == "skipped":
            print(f"{precision}: no engine: {record.reason}")
        else:
            shutil.move(log, aside / BUILD_LOG)
            record.write(aside)  # which loading the engine reads
            record.parity = parity(aside, precision, options)
            print(f"{precision}: engine of {(record.bytes or 0) / 1e6:.2f} MB by {record.library} {record.version}")
        record.made_from = OUT.digests(*([onnx] if onnx else []), OUT.section_file("engine"))
        record.write(aside)


def record_of(onnx: Path, engine: Path, options: EngineOptions, *, precision: str, log: Path) -> EngineRecord:
    """Build the engine where a library is here that can."""
    library = available(options.library)
    if library is None:
        return skipped(options.library, precision)
    try:
        return build(onnx, engine, options, precision=precision, log=log)
    except RefusedGraphError as error:
        return skipped(library[0], precision, str(error))


def parity(folder: Path, precision: str, options: EngineOptions) -> Comparison | str:
    """The engine beside its ONNX graph on the test images, held to the gate of its precision where it can run."""
    onnx, test = OUT.onnx(precision, BUILDER), read_split(OUT.data, "test")
    gate = OUT.section("export", export_options()).gate(precision)
    what = f"{precision} engine"
    try:
        compared = engine_parity(
            folder,
            onnx=onnx,
            images=test.images,
            labels=test.labels,
            reference=np.load(OUT.logits(precision, BUILDER), allow_pickle=False),
            near_tie=gate.near_tie,
            what=what,
        )
        if not isinstance(compared, str):
            gate.check(compared, what=what)
        return compared
    except GateError as error:
        worst = test.images[np.array(error.images)]
        with tempfile.TemporaryDirectory() as scratch:
            where = engine_parting(onnx, worst, options, precision=precision, folder=Path(scratch))
        raise UserError(f"{error}; {where}") from error


if __name__ == "__main__":
    run(main)
