"""How long TensorRT takes to build an engine for each student of the paper at 224 x 224, and how large it is.

    python -m benchmarks.engine_build

Some minutes on two cores, and no GPU where tensorrt_rtx builds. The students are untrained, which changes neither the
work nor the size; int8 is Q/DQ by ONNX Runtime's static quantiser, calibrated on noise. `build` is what the stage
`engine` waits for, parsing included, measured once; `CPU` is the processor time in it, on which other work on the
machine has little influence.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.command import command
from benchmarks.interleaved import markdown
from benchmarks.overhead import CLASSES, PAIRS, SHAPE
from rsd.export import precisions as known
from rsd.export.tensorrt import EngineOptions, build
from rsd.export.ungated import write_files
from rsd.machine.errors import UserError
from rsd.machine.yaml_file import read_yaml
from rsd.models.make import ModelOptions, create
from rsd.sources.images import ArrayImages

# Each student, and a pair of the paper that has it.
STUDENTS = {
    "resnet18": "cifar100/swin_t-resnet18",
    "mobilenetv2": "cifar100/swin_t-mobilenetv2",
    "deit_t": "cifar100/convnext_t-deit_t",
    "swin_n": "imagenet/convnext_t-swin_n",
    "swin_p": "cifar100/convnext_t-swin_p",
    "resmlp_s12": "cifar100/swin_t-resmlp_s12",
}


def graphs(student: str, folder: Path) -> dict[str, Path]:
    """The student's ONNX file in each precision, under `folder`."""
    pair = STUDENTS[student]
    described = read_yaml(PAIRS / f"{pair}.yaml")["student"]
    torch.manual_seed(0)
    classes = CLASSES[pair.split("/")[0]]
    options = ModelOptions(name=described["name"], args=described.get("args", {}))
    model = create(options, classes=classes, image_shape=SHAPE)
    paths = {precision: folder / f"{student}-{precision}.onnx" for precision in known.names()}
    noise = ArrayImages(np.random.default_rng(0).integers(0, 256, (4, *SHAPE), dtype=np.uint8))
    write_files(
        model, paths, mean=[0.5] * 3, std=[0.25] * 3, image_shape=SHAPE, classes=classes, calibration=noise,
        runs_on="tensorrt",
    )  # fmt: skip
    return paths


def rows(students: list[str], precisions: list[str], options: EngineOptions) -> Iterator[dict[str, str]]:
    """A line of the table per engine; what is refused says why in the place of its numbers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for student in students:
            paths = graphs(student, folder)
            for precision in precisions:
                start = time.process_time()
                line = {"student": student, "precision": precision, "build, s": "-", "CPU, s": "-", "engine, MB": "-"}
                try:
                    record = build(paths[precision], folder / "engine", options, precision=precision)
                    line["build, s"] = f"{record.build_seconds:.1f}"
                    line["CPU, s"] = f"{time.process_time() - start:.1f}"
                    line["engine, MB"] = f"{(record.bytes or 0) / 1e6:.1f}"
                    made_for = ", ".join(record.compute_capabilities)
                    yield line | {"library": f"{record.library} {record.version} for {made_for}"}
                except UserError as error:
                    yield line | {"library": str(error).replace(str(folder), "")}


def main() -> None:
    print(markdown(list(rows(list(STUDENTS), known.names(), EngineOptions()))))


if __name__ == "__main__":
    command(main, __doc__)
