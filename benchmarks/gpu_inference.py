"""The checks of `benchmarks.gpu_check` that run exported files: engines, and ONNX Runtime's providers.

A student of the handwritten digits is trained for seconds and exported, so that parity is measured on real test images.
Polygraphy takes one TensorRT library per process, hence each engine has a process of its own:
`python -m benchmarks.gpu_inference WHAT FOLDER LIBRARY PRECISION OPTIONS`, which prints one line of JSON.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.interleaved import interleaved
from rsd.export import precisions
from rsd.export.engine import open_engine
from rsd.export.engine_parity import engine_parting
from rsd.export.options import export_options
from rsd.export.parity import compare
from rsd.export.runtimes.onnxruntime import logits_of
from rsd.export.tensorrt import EngineOptions, build
from rsd.export.ungated import write_files
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.errors import UserError
from rsd.machine.files import write_json
from rsd.machine.fingerprint import fingerprint
from rsd.measure.benchmark import BenchmarkOptions, benchmark
from rsd.methods.scratch import ScratchDistiller
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import PixelNormalize
from rsd.run.records import Comparison, DeviceRecord, EngineRecord
from rsd.sources.images import ArrayImages
from rsd.sources.kinds.digits import Digits
from rsd.training.loop import Data, Session, train
from rsd.training.recipe import Recipe
from rsd.views.augment import ViewChoice

# How far a provider's logits may differ from the CPU's, as a share of their range: rounding, TF32 in place of float32,
# and int8's coarse steps. Engines are held to the pipeline's own gates.
TOLERANCE = {"fp32": 1e-2, "fp16": 2e-2, "int8": 5e-2}
RUNS, WARM_UP = 200, 20
PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


def make_student(folder: Path) -> None:
    """Train a tiny ResNet on the digits and write it in every precision, with test images, labels and logits.

    Does nothing if the folder has them already.
    """
    if (folder / "done.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    everything = Digits(size=16).every()
    order = np.random.default_rng(0).permutation(len(everything.labels))
    pixels, labels = np.asarray(everything.images[order]), everything.labels[order]
    known = everything._replace(images=pixels[:1200], labels=labels[:1200])
    test = everything._replace(images=pixels[1200:], labels=labels[1200:])
    set_up(ComputeOptions(device="cpu"))
    torch.manual_seed(0)
    args = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 32], "stem_type": "deep", "stem_width": 8}
    shape = (16, 16, 1)
    model = create(ModelOptions(name="resnet18", args=args), classes=10, image_shape=shape)
    mean, std = [float(pixels.mean() / 255)], [float(pixels.std() / 255)]
    recipe = Recipe(epochs=8, batch_size=32, optimizer="adamw", learning_rate=3e-3, warmup_epochs=1)
    data = Data(known, test, PixelNormalize(mean, std))
    trained = train(ScratchDistiller(model), data, recipe, Session(0, ViewChoice(0)))
    model.load_state_dict(trained.student)
    write_files(
        model.eval(), {name: folder / f"{name}.onnx" for name in precisions.names()}, mean=mean, std=std,
        image_shape=shape, classes=10, calibration=ArrayImages(pixels[:256]), runs_on="tensorrt",
    )  # fmt: skip
    np.savez(folder / "test.npz", images=pixels[1200:], labels=test.labels)
    for precision in precisions.names():
        np.save(folder / f"{precision}.npy", logits_of(folder / f"{precision}.onnx", test.images))
    write_json(folder / "done.json", trained.selected)


def _test(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    test = np.load(folder / "test.npz", allow_pickle=False)
    return test["images"], test["labels"]


def near_cpu(logits: np.ndarray, folder: Path, precision: str) -> dict[str, Any]:
    """The record of parity with ONNX Runtime on the CPU; a UserError where they are further apart than allowed."""
    record = compare(np.load(folder / f"{precision}.npy", allow_pickle=False), logits, _test(folder)[1])
    share, allowed = record.max_difference_share, TOLERANCE[precision]
    if share > allowed:
        raise UserError(f"expected logits within {allowed:.0%} of ONNX Runtime's on the CPU, found {share:.2%}")
    return _facts(record)


def through_gate(logits: np.ndarray, folder: Path, precision: str) -> dict[str, Any]:
    """The record of parity of an engine with its ONNX file; a UserError where it misses the pipeline's own gate."""
    gate = export_options()().gate(precision)
    reference = np.load(folder / f"{precision}.npy", allow_pickle=False)
    record = compare(reference, logits, _test(folder)[1], near_tie=gate.near_tie)
    gate.check(record, what=f"{precision} engine")
    return _facts(record)


def _facts(record: Comparison) -> dict[str, Any]:
    return record.model_dump(include={"max_difference_share", "top1_agreement", "accuracy", "images"})


def median_ms(call: Callable[[], Any]) -> float:
    """The median of some calls, after a warm-up; a check, no benchmark."""
    return 1000 * float(interleaved({"call": call}, rounds=RUNS, warmup=WARM_UP)["call"].median())


def _built(
    folder: Path, library: str, precision: str, options: dict[str, Any]
) -> tuple[Path, EngineOptions, EngineRecord]:
    """An engine for this machine's GPU: its folder, what it was built with, and its record."""
    place = folder / f"{library}-{precision}-{'-'.join(map(str, options.values())) or 'plain'}"
    place.mkdir(parents=True, exist_ok=True)
    settings = EngineOptions.model_validate({"library": library, "compute_capabilities": ["current"], **options})
    record = build(
        folder / f"{precision}.onnx", place / "model.engine", settings, precision=precision, log=place / "build.log"
    )
    write_json(place / "engine.json", record.content())
    return place, settings, record


def every_value(folder: Path, library: str, precision: str, options: dict[str, Any]) -> dict[str, Any]:
    """Build an engine all of whose values are outputs, run it, and compare them with ONNX Runtime's."""
    place, settings, _ = _built(folder, library, precision, options)
    onnx, images = folder / f"{precision}.onnx", _test(folder)[0][: settings.max_batch]
    message = engine_parting(onnx, images, settings, precision=precision, folder=place)
    if "could not be found" in message:
        raise UserError(message)
    return {"message": message}


def rows(folder: Path, library: str, precision: str, options: dict[str, Any]) -> dict[str, Any]:
    """The rows that the stage `benchmark` makes of an engine."""
    place, _, _ = _built(folder, library, precision, options)
    quick = BenchmarkOptions(min_seconds=0, min_samples=64, rounds=2, offline_batches=[4], baseline=False)
    latencies = benchmark(
        {}, {precision: place}, quick, device=DeviceRecord.model_validate(fingerprint()), folder=place
    ).rows
    if lacking := [row.status for row in latencies if row.status != "measured"]:
        raise UserError(lacking[0])
    return {"p50, ms": {f"{row.runtime}, batch {row.batch}": row.p50_ms for row in latencies}}


def edge_session(folder: Path, precision: str) -> dict[str, Any]:
    """The edge package builds its engine through ONNX Runtime, and infers with it."""
    from rsd_edge.model import Model

    images, labels = _test(folder)
    shape = dict(zip(("height", "width", "channels"), images.shape[1:], strict=True))
    models = {precision: {"onnx": {"onnxruntime": f"{precision}.onnx"}}}
    write_json(folder / "manifest.json", {"name": "digits", "release": 1, "models": models})
    write_json(folder / "labels.json", sorted({str(label) for label in labels}))
    write_json(folder / "preprocessing.json", {**shape, "resize": "bilinear", "crop_share": None})
    engines = folder / "edge" / precision
    engines.mkdir(parents=True, exist_ok=True)
    model = Model.open(folder, precision=precision, engines=engines)
    model.warm_up()  # which says so where TensorRT was not taken
    return {"provider": model.provider, "parity": near_cpu(model.infer(images), folder, precision)}


def engine(folder: Path, library: str, precision: str, options: dict[str, Any]) -> dict[str, Any]:
    """Build an engine for this machine's GPU, load it, hold it to its ONNX file, and time it both ways."""
    place, _, record = _built(folder, library, precision, options)
    onnx, images = folder / f"{precision}.onnx", _test(folder)[0]
    with open_engine(place, onnx=onnx) as ready:
        parity = through_gate(ready.logits(images), folder, precision)
        latency = {}
        for size in (1, record.batches[1]):
            copies, alone = ready.with_copies(images[:size]), ready.compute_only(images[:size])
            latency[f"batch {size}"] = {"with copies, ms": median_ms(copies), "compute only, ms": median_ms(alone)}
    facts = record.model_dump(include={"version", "bytes", "build_seconds", "compute_capabilities"})
    return {**facts, "parity": parity, "latency": latency}


APART = {"engine": engine, "every value": every_value, "benchmark": rows}
"""What is done with an engine in a process of its own."""


def engine_apart(
    folder: Path, library: str, precision: str, options: dict[str, Any], what: str = "engine"
) -> dict[str, Any]:
    """One of `APART` in a process of its own."""
    arguments = [what, str(folder), library, precision, json.dumps(options)]
    command = [sys.executable, "-m", "benchmarks.gpu_inference", *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise UserError((process.stderr.strip().splitlines() or [f"it ended with status {process.returncode}"])[-1])
    facts: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return facts


def provider(folder: Path, name: str, precision: str, device: str = "cuda") -> dict[str, Any]:
    """Run the ONNX file by a provider of ONNX Runtime, hold it to the CPU's logits, and time it both ways."""
    images, _ = _test(folder)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    session = ort.InferenceSession(folder / f"{precision}.onnx", settings, providers=[name])
    if session.get_providers()[0] != name:  # it falls back to the CPU and says so in a log only
        raise UserError(f"expected a session of {name}, found that ONNX Runtime took {session.get_providers()[0]}")
    parts = [session.run(["logits"], {"image": images[s : s + 8]})[0] for s in range(0, len(images), 8)]
    parity = near_cpu(np.concatenate(parts), folder, precision)
    one = images[:1]
    bound = session.io_binding()
    bound.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(one, device, 0))
    bound.bind_output("logits", device)

    def compute() -> None:
        session.run_with_iobinding(bound)
        bound.synchronize_outputs()

    latency = {
        "with copies, ms": median_ms(lambda: session.run(["logits"], {"image": one})),
        "compute only, ms": median_ms(compute),
    }
    return {"version": ort.__version__, "parity": parity, "latency": {"batch 1": latency}}


def main() -> None:
    """One engine."""
    what, folder, library, precision, options = sys.argv[1:]
    try:
        facts = APART[what](Path(folder), library, precision, json.loads(options))
        print(json.dumps(facts))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
