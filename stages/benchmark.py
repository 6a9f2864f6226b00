"""ONNX files, engines and PyTorch -> out/benchmark/: their latency on this machine, with every raw sample."""

import torch

from rsd.measure.baseline import baseline
from rsd.measure.benchmark import BenchmarkOptions, benchmark
from rsd.models.folder import load_trained
from rsd.run.names import ENGINE_RECORD
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
            OUT.section_file("benchmark"),
            *(OUT.onnx(precision) for precision in precisions),
            *(OUT.engine_folder(precision) / ENGINE_RECORD for precision in precisions),
        ),
    )


if __name__ == "__main__":
    run(main)
