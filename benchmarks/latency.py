"""ONNX Runtime beside PyTorch, and our harness beside a bare loop.

    python -m benchmarks.latency             # the default student, ResNet18 and MobileNetV2 at 224 x 224
    python -m benchmarks.latency --harness   # the share of a call's time that timing it takes

One thread, batch 1, weights random (`randomised`). Each model's rows take turns in one run: fp32 and
int8 in ONNX Runtime, PyTorch eager and compiled. Some minutes; nothing else should run.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.command import command
from benchmarks.interleaved import interleaved, markdown, spread
from rsd.export.ungated import write_files
from rsd.machine.fingerprint import fingerprint
from rsd.measure.baseline import baseline
from rsd.measure.budget.kit import randomised
from rsd.measure.latency import Candidate, Plan, conditions, measured, onnx_candidate, session, take_turns, timed
from rsd.models.make import ModelOptions, create
from rsd.report.latency_table import notes
from rsd.run.records import Latency, LatencyRecord

STUDENT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
MODELS = {
    "default student": (
        ModelOptions(name="vit_tiny_patch16_224", args=STUDENT | {"class_token": False, "global_pool": "avg"}),
        (16, 16, 1),
        10,
    ),
    "ResNet18": (ModelOptions(name="resnet18"), (224, 224, 3), 1000),
    "MobileNetV2": (ModelOptions(name="mobilenetv2_100"), (224, 224, 3), 1000),
}


def write(name: str, paths: dict[str, Path]) -> nn.Module:
    """The model of this name, and its file in each precision."""
    options, shape, classes = MODELS[name]
    model = randomised(create(options, classes=classes, image_shape=shape), shape)
    mean, std = [0.5] * shape[2], [0.25] * shape[2]
    write_files(model, paths, mean=mean, std=std, image_shape=shape, classes=classes)
    return model


def candidates(name: str, folder: Path) -> list[Candidate | Latency]:
    """The rows of one model, whose files go into `folder`."""
    shape = MODELS[name][1]
    paths = {precision: folder / f"{name}-{precision}.onnx" for precision in ("fp32", "int8")}
    model = write(name, paths)
    files = [onnx_candidate(path, precision=kind, threads=1, file=name) for kind, path in paths.items()]
    mean, std = [0.5] * shape[2], [0.25] * shape[2]
    return [*files, *baseline(model, mean, std, name=name, image_shape=shape, threads=[1])]


def compare(plan: Plan, names: list[str]) -> LatencyRecord:
    """One run per model, its rows interleaved."""
    before, rows = conditions(), []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows_of_model = candidates(name, Path(folder))
            timing = [one for one in rows_of_model if isinstance(one, Candidate)]
            with tqdm(total=plan.rounds * len(timing), desc=name, unit="turn", disable=None) as bar:
                turns = take_turns(timing, plan, progress=partial(_advance, bar))
            rows += [Latency(**measured(one.row, t)) for one, t in zip(timing, turns, strict=True)]
            rows += [one for one in rows_of_model if isinstance(one, Latency)]
    state = {"before": before, "after": conditions()}
    options = {"min_seconds": plan.min_seconds, "min_samples": plan.min_samples, "rounds": plan.rounds}
    return LatencyRecord(device=fingerprint(), conditions=state, options=options, rows=rows)


def _advance(bar: tqdm, _: str) -> None:
    bar.update()


def table(record: LatencyRecord) -> str:
    """p50, CPU time per call, and how many times faster than eager by each."""
    eager = {row.file: row for row in record.rows if row.runtime == "pytorch"}
    lines = []
    for row in record.rows:
        if row.status != "measured" or not (row.p50_ms and row.cpu_ms):
            lines.append({"model": row.file, "runs on": row.runtime, "precision": row.precision, "p50": row.status})
            continue
        by = eager[row.file]
        lines.append(
            {
                "model": row.file,
                "runs on": row.runtime,
                "precision": row.precision,
                "p50": f"{row.p50_ms:.3g} ms" + (" (noisy)" if row.noisy else ""),
                "CPU time": f"{row.cpu_ms:.3g} ms",
                "eager / this, p50": f"{(by.p50_ms or 0) / row.p50_ms:.2f}",
                "eager / this, CPU time": f"{(by.cpu_ms or 0) / row.cpu_ms:.2f}",
                "samples": f"{row.samples:,}",
            }
        )
    head = max(lines, key=len)
    return markdown([{key: line.get(key, "") for key in head} for line in lines])


def beside_a_loop(folder: Path, rounds: int) -> pd.DataFrame:
    """CPU seconds of `CALLS` calls of the default student: a bare loop, and ours with its clock and its list."""
    path = folder / "model.onnx"
    write("default student", {"fp32": path})
    with session("onnxruntime", path) as infer:
        bare_session, feed = infer.func.__self__, infer.args[1]  # type: ignore[attr-defined]

        def bare() -> None:
            for _ in range(CALLS):
                bare_session.run(None, feed)

        def ours() -> None:
            timed(infer, 0.0, CALLS)

        return interleaved({"bare": bare, "ours": ours}, rounds=rounds, clock=time.process_time)


CALLS = 500


def main(harness: bool = False) -> None:
    torch.set_num_threads(1)
    if harness:
        with tempfile.TemporaryDirectory() as folder:
            seconds = beside_a_loop(Path(folder), 40)
        ratio = seconds["ours"] / seconds["bare"] - 1
        print(f"bare session.run: {spread(seconds['bare'] / CALLS * 1e6)} us of CPU per call")
        print(f"ours: {spread(seconds['ours'] / CALLS * 1e6)} us")
        low, high = ratio.quantile(0.25), ratio.quantile(0.75)
        print(f"overhead: median {np.median(ratio):+.2%} (quartiles {low:+.2%}, {high:+.2%})")
        return
    record = compare(Plan(min_seconds=2.0, min_samples=64, rounds=5), list(MODELS))
    print(table(record))
    print(*[f"- {line}" for line in notes(record)], sep="\n")


if __name__ == "__main__":
    command(main, __doc__)
