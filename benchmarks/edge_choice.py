"""How near the pair that a device chooses is to its fastest, time after time.

    python -m benchmarks.edge_choice                            # the default student and ResNet18 at 224 x 224
    python -m benchmarks.edge_choice --only ResNet18 --times 3

Five minutes; nothing else should run. A release in every precision and runtime is chosen for ten times, as
`rsd-edge activate` does. Between the choices every pair takes turns with every number of threads, each in a process of
its own; the reference is the median over all of these turns. A choice counts if its reference is within 3 % of the
least one. Ends with status 1 if fewer than nine in ten count.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import typer
from PIL import Image
from rsd_edge import child, timing
from rsd_edge.bundle import MANIFEST, manifest_of
from rsd_edge.choices import Pins
from rsd_edge.choosing import Way, choose
from rsd_edge.model import Model
from rsd_edge.selftest import golden_images, singles
from tqdm import tqdm

from benchmarks.command import command, named
from benchmarks.interleaved import markdown
from benchmarks.runtimes import CALIBRATION, MODELS, pictures, write
from rsd.export import precisions
from rsd.export.half import to_half
from rsd.export.run_graph import logits_in
from rsd.machine.errors import UserError
from rsd.machine.files import sha256, write_json

NEAR, SHARE = 1.03, 0.9
TIMES, ROUNDS = 10, 6
GOLDEN = 6
READERS = ("onnxruntime", "openvino")


def release(name: str, folder: Path) -> Path:
    """What a choice reads of a bundle: a model of `benchmarks.runtimes.MODELS` in each precision, for each runtime."""
    (height, width, channels), classes = MODELS[name][1]
    write(name, folder)
    onnx.save(to_half(onnx.load(folder / "fp32.onnx")), folder / "fp16.onnx")
    files = {kind: dict.fromkeys(READERS, f"{kind}.onnx") for kind in ("fp32", "fp16")}
    files["int8"] = {runtime: f"{runtime}.onnx" for runtime in READERS}
    images = pictures(CALIBRATION + GOLDEN, (height, width, channels))[CALIBRATION:]
    Image.fromarray(images[0].squeeze()).save(folder / "as-served.png")
    np.save(folder / "images.npy", images)
    golden: dict[str, dict[str, str]] = {kind: {} for kind in files}
    tolerances = {}
    for kind, by_runtime in files.items():
        for runtime, file in by_runtime.items():
            logits = logits_in(runtime, onnx.load(folder / file), images)
            golden[kind][runtime] = f"logits.{kind}.{runtime}.npy"
            np.save(folder / golden[kind][runtime], logits)
            tolerances[kind] = precisions.get(kind).golden * float(np.ptp(logits))
    served = {"height": height, "width": width, "channels": channels, "resize": "bilinear", "crop_share": None}
    write_json(folder / "preprocessing.json", served | {"mean": [0.5], "std": [0.25], "normalised": "inside"})
    write_json(folder / "labels.json", [str(number) for number in range(classes)])
    manifest = {
        "schema_version": 3,
        "name": "timed",
        "release": 1,
        "requires": {
            "architectures": ["x86_64", "aarch64"], "onnxruntime": onnxruntime.__version__, "openvino": "2024.4",
            "memory_mib": 0,
        },
        "p99_ms": None,
        "models": {kind: {"onnx": by_runtime} for kind, by_runtime in files.items()},
        "golden": {
            "images": "images.npy", "files": [{"path": "as-served.png", "row": 0}], "logits": golden,
            "tolerances": {"pixels": 3, "logits": tolerances},
        },
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())
        },
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return folder


def _turns(folder: Path, way: Way) -> Iterator[float]:
    """0 when the model is open, then the seconds of each turn."""
    (precision, runtime), threads = way
    model = Model.open(folder, precision=precision, runtime=runtime, threads=threads)
    images, seconds = singles(golden_images(folder)), 0.0
    while True:
        yield seconds
        seconds = timing.turn(lambda: model.infer(next(images)))


def compare(name: str, times: int) -> tuple[list[dict[str, str]], int]:
    """The table of a model's ways, and how many of its choices count."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = release(name, Path(temporary))
        ways = [(pair, threads) for pair in manifest_of(folder).pairs for threads in timing.thread_counts()]
        racing = {
            way: stack.enter_context(child.steps(partial(_turns, folder, way), name, seconds=3600)) for way in ways
        }
        for step in racing.values():
            step()
        turns: dict[Way, list[float]] = {way: [] for way in ways}
        counts: Counter[Way] = Counter()
        for _ in tqdm(range(times), desc=name, unit="choice", disable=None):
            choice = choose(folder, Pins(), lambda *_, **__: None)
            counts[choice.pair, choice.threads] += 1
            for _ in range(ROUNDS):
                for way, step in racing.items():
                    turns[way].append(step())
    reference = {way: median(seconds) for way, seconds in turns.items()}
    best = min(reference.values())
    rows = []
    for way in sorted(ways, key=lambda way: reference[way]):
        row = {"model": name, "pair": str(way[0]), "threads": str(way[1]), "p50": f"{1e3 * reference[way]:.3g} ms"}
        rows.append({**row, "of the best": f"{reference[way] / best:.3f}", "chosen": f"{counts[way]} of {times}"})
    return rows, sum(count for way, count in counts.items() if reference[way] <= NEAR * best)


def main(
    only: Annotated[list[str] | None, typer.Option(help="A model of the table; may be repeated.")] = None,
    times: int = TIMES,
) -> None:
    rows, near = [], []
    for name in named(only or ["default student", "ResNet18"], MODELS):
        rows_of_model, count = compare(name, times)
        rows += rows_of_model
        near.append(count)
        print(f"{name}: {count} of {times} choices within {NEAR - 1:.0%} of the best", flush=True)
    print("\n" + markdown(rows))
    if min(near) < SHARE * times:
        raise UserError(f"expected at least {SHARE:.0%} of the choices within {NEAR - 1:.0%} of the best, found fewer")


if __name__ == "__main__":
    command(main, __doc__)
