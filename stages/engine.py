"""ONNX -> out/engines/PRECISION/: a TensorRT engine and its record, or a record that says why there is none."""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rsd.export.engine_parity import engine_parity, engine_parting
from rsd.export.parity import GateError, Gates, Precision, check
from rsd.export.tensorrt import EngineOptions, available, build, skipped
from rsd.machine.errors import UserError
from rsd.machine.files import read_json, write_json, written_aside
from rsd.run.paths import Run
from rsd.run.records import EngineRecord
from rsd.sources.images import read_split
from stages import OUT, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["fp32", "fp16", "int8"])
    precision = parser.parse_args().precision
    here = Run(OUT)
    options = here.section("engine", EngineOptions)
    with written_aside(here.engine_folder(precision)) as aside:
        aside.mkdir()
        made_from = here.digests(f"convert/{precision}/model.onnx")
        if available(options.library) is None:
            record = EngineRecord(**skipped(options.library), precision=precision, library=options.library)
            print(record.reason)
            write_json(aside / "engine.json", record.content() | {"made_from": made_from})
            return
        onnx = here.onnx(precision)
        log = here.logs / f"engine-{precision}.log"  # stays there if the build fails
        built = build(onnx, aside / "model.engine", options, precision=precision, log=log)
        shutil.move(log, aside / "build.log")
        write_json(aside / "engine.json", built)
        record = EngineRecord.model_validate(
            built | {"parity": parity(aside, precision, options), "made_from": made_from}
        )
        write_json(aside / "engine.json", record.content())
    print(f"{precision}: engine of {(record.bytes or 0) / 1e6:.2f} MB by {record.library} {record.version}")


def parity(folder: Path, precision: Precision, options: EngineOptions) -> dict[str, Any] | str:
    """The engine beside its ONNX graph on the test images, held to the gate of its precision where it can run."""
    export = Run(OUT).convert_folder(precision)
    test = read_split(OUT / "data", "test")
    gates = Gates.model_validate(read_json(OUT / "params" / "export.json")["gates"])
    what = f"{precision} engine"
    try:
        found = engine_parity(
            folder,
            onnx=export / "model.onnx",
            images=test.images,
            labels=test.labels,
            reference=np.load(export / "logits.npy", allow_pickle=False),
            near_tie=gates.near_tie(precision),
            what=what,
        )
        if not isinstance(found, str):
            check(found, precision, gates, what=what)
        return found
    except GateError as error:
        worst = test.images[np.array(error.images)]
        with tempfile.TemporaryDirectory() as scratch:
            where = engine_parting(export / "model.onnx", worst, options, precision=precision, folder=Path(scratch))
        raise UserError(f"{error}; {where}") from error


if __name__ == "__main__":
    run(main)
