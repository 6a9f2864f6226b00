"""ONNX files and engines -> out/benchmark/: their latency on this machine, with every raw sample."""

from rsd.benchmark import BenchmarkOptions, benchmark
from rsd.files import read_json
from stages import OUT, run, section


def main() -> None:
    precisions = read_json(OUT / "params" / "run.json")["precisions"]
    benchmark(
        {precision: OUT / "export" / precision / "model.onnx" for precision in precisions},
        {precision: OUT / "engines" / precision for precision in precisions},
        section("benchmark", BenchmarkOptions),
        device=read_json(OUT / "device.json"),
        folder=OUT / "benchmark",
    )


if __name__ == "__main__":
    run(main)
