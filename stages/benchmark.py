"""ONNX files, engines and PyTorch -> out/benchmark/: their latency on this machine, with every raw sample."""

import torch

from rsd.measure.baseline import baseline
from rsd.measure.benchmark import BenchmarkOptions, benchmark
from rsd.models.folder import load_trained
from stages import OUT, run


def main() -> None:
    torch.set_num_threads(1)
    precisions = OUT.choice().precisions
    options = OUT.section("benchmark", BenchmarkOptions)
    others = []
    if options.baseline:
        name = OUT.shipped().student.name
        model, _, config = load_trained(OUT.student_folder(name))
        others = baseline(
            model,
            config.mean,
            config.std,
            name=name,
            image_shape=config.image_shape,
            threads=[1],  # two threads make a small model slower, and the stage longer
        )
    benchmark(
        {precision: OUT.onnx(precision) for precision in precisions},
        {precision: OUT.engine_folder(precision) for precision in precisions},
        options,
        device=OUT.device(),
        folder=OUT.benchmark_folder,
        others=others,
        made_from=OUT.digests(
            "params/benchmark.json",
            *(f"convert/{precision}/model.onnx" for precision in precisions),
            *(f"engines/{precision}/engine.json" for precision in precisions),
        ),
    )


if __name__ == "__main__":
    run(main)
