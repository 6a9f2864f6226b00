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
from rsd.sources.images import read_split
from stages import OUT, run, section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["fp32", "fp16", "int8"])
    precision = parser.parse_args().precision
    options = section("engine", EngineOptions)
    with written_aside(OUT / "engines" / precision) as aside:
        aside.mkdir()
        record: dict[str, Any] = skipped(options.library)
        if available(options.library) is None:
            print(record["reason"])
            write_json(aside / "engine.json", record)
            return
        onnx = OUT / "convert" / precision / "model.onnx"
        log = OUT / "logs" / f"engine-{precision}.log"  # stays there if the build fails
        record = build(onnx, aside / "model.engine", options, precision=precision, log=log)
        shutil.move(log, aside / "build.log")
        write_json(aside / "engine.json", record)
        record["parity"] = parity(aside, precision, options)
        write_json(aside / "engine.json", record)
    print(f"{precision}: engine of {record['bytes'] / 1e6:.2f} MB by {record['library']} {record['version']}")


def parity(folder: Path, precision: Precision, options: EngineOptions) -> dict[str, Any] | str:
    """The engine beside its ONNX graph on the test images, held to the gate of its precision where it can run."""
    converted = OUT / "convert" / precision
    test = read_split(OUT / "data", "test")
    gates = Gates.model_validate(read_json(OUT / "params" / "export.json")["gates"])
    what = f"{precision} engine"
    try:
        found = engine_parity(
            folder,
            onnx=converted / "model.onnx",
            images=test.images,
            labels=test.labels,
            reference=np.load(converted / "logits.npy", allow_pickle=False),
            near_tie=gates.near_tie(precision),
            what=what,
        )
        if not isinstance(found, str):
            check(found, precision, gates, what=what)
        return found
    except GateError as error:
        worst = test.images[np.array(error.images)]
        with tempfile.TemporaryDirectory() as scratch:
            where = engine_parting(converted / "model.onnx", worst, options, precision=precision, folder=Path(scratch))
        raise UserError(f"{error}; {where}") from error


if __name__ == "__main__":
    run(main)
