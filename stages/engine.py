"""ONNX -> out/engines/PRECISION/: a TensorRT engine and its record, or a record that says why there is none."""

import argparse
from typing import Any

from rsd.export.tensorrt import EngineOptions, available, build, skipped
from rsd.files import write_json, written_aside
from stages import OUT, run, section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision")
    precision = parser.parse_args().precision
    with written_aside(OUT / "engines" / precision) as aside:
        aside.mkdir()
        record: dict[str, Any] = skipped()
        if available() is None:
            print(record["reason"])
        else:
            record = build(
                OUT / "export" / precision / "model.onnx",
                aside / "model.engine",
                section("engine", EngineOptions),
                precision=precision,
            )
            print(f"{precision}: engine of {record['bytes'] / 1e6:.2f} MB by {record['library']} {record['version']}")
        write_json(aside / "engine.json", record)


if __name__ == "__main__":
    run(main)
