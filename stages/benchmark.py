"""ONNX files, engines and PyTorch -> out/benchmark/: their latency on this machine, with every raw sample."""

import torch

from rsd.machine.files import read_json
from rsd.measure.baseline import baseline
from rsd.measure.benchmark import BenchmarkOptions, benchmark
from rsd.models.folder import load_trained
from rsd.run.paths import Run
from stages import OUT, run, section


def main() -> None:
    torch.set_num_threads(1)
    precisions = read_json(OUT / "params" / "run.json")["precisions"]
    options = section("benchmark", BenchmarkOptions)
    others = []
    if options.baseline:
        name = Run(OUT).export().student
        model, record = load_trained(OUT / "students" / name, "student")
        others = baseline(
            model,
            record["mean"],
            record["std"],
            name=name,
            image_shape=(record["height"], record["width"], len(record["mean"])),
            threads=[1],  # two threads make a small model slower, and the stage longer
        )
    benchmark(
        {precision: OUT / "convert" / precision / "model.onnx" for precision in precisions},
        {precision: OUT / "engines" / precision for precision in precisions},
        options,
        device=Run(OUT).device(),
        folder=OUT / "benchmark",
        others=others,
    )


if __name__ == "__main__":
    run(main)
