"""ONNX files, engines and PyTorch -> out/benchmark/: their latency on this machine, with every raw sample."""

import torch

from rsd.measure.baseline import baseline
from rsd.measure.benchmark import BenchmarkOptions, benchmark
from rsd.models.folder import load_trained
from rsd.run.names import ENGINE_RECORD
from stages import OUT, run


def main() -> None:
    torch.set_num_threads(1)
    converted = {precision: OUT.converted(precision) for precision in OUT.choice().precisions}
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
        {name: {runtime: OUT.onnx(name, runtime) for runtime in record.pairs} for name, record in converted.items()},
        {name: OUT.engine_folder(name) for name in converted},
        options,
        device=OUT.device(),
        folder=OUT.benchmark_folder,
        others=others,
        made_from=OUT.digests(
            OUT.section_file("benchmark"),
            *(OUT.engine_folder(name) / ENGINE_RECORD for name in converted),
        )
        | {path: digest for record in converted.values() for path, digest in record.files.items()},
    )


if __name__ == "__main__":
    run(main)
