"""Each file in each runtime that reads it, beside PyTorch, bare runtimes, and NNCF's own int8 model in OpenVINO.

    python -m benchmarks.runtimes                      # the default student and six models at 224 x 224
    python -m benchmarks.runtimes --plot speed.png     # with a picture of the speed over ONNX Runtime fp32
    python -m benchmarks.runtimes --harness            # the share of a call's time that timing it takes

One thread, batch 1, weights random (`randomised`), cosine to fp32 over six images. Each model's rows take turns in one
run. Ten minutes; nothing else should run. `pip install nncf` adds NNCF's rows.
"""

import importlib.util
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import altair as alt
import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from benchmarks.command import command, named
from benchmarks.interleaved import interleaved, markdown, spread
from benchmarks.study.charts import save
from rsd.export import runtimes, write_int8
from rsd.export.int8_file import mean_cosine
from rsd.export.runtimes.openvino import OpenVinoSession
from rsd.export.ungated import write_files
from rsd.machine.fingerprint import fingerprint
from rsd.measure.baseline import baseline
from rsd.measure.budget.kit import randomised
from rsd.measure.latency import Candidate, Plan, conditions, measured, onnx_candidate, session, take_turns, timed
from rsd.models.make import ModelOptions, create
from rsd.report.latency_table import notes
from rsd.report.table import runs_on, size
from rsd.run.records import Latency, LatencyRecord

STUDENT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
LARGE = ((224, 224, 3), 1000)
MODELS = {
    "default student": (
        ModelOptions(name="vit_tiny_patch16_224", args=STUDENT | {"class_token": False, "global_pool": "avg"}),
        ((16, 16, 1), 10),
    ),
    "ResNet18": (ModelOptions(name="resnet18"), LARGE),
    "MobileNetV2": (ModelOptions(name="mobilenetv2_100"), LARGE),
    "DeiT-T": (ModelOptions(name="deit_tiny_patch16_224"), LARGE),
    "ResMLP-12": (ModelOptions(name="resmlp_12_224"), LARGE),
    "MobileNetV3-S": (ModelOptions(name="mobilenetv3_small_100"), LARGE),
    "ConvNeXt-A": (ModelOptions(name="convnext_atto"), LARGE),
}
CALIBRATION, JUDGES = 32, 6
NNCF = "NNCF's own, in OpenVINO"
CALLS = 500


def pictures(count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Smooth colours, as photographs have more of than noise has: uint8 `[N, H, W, C]`."""
    height, width, channels = shape
    coarse = torch.randn(count, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (128 + 50 * smooth).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def write(name: str, folder: Path) -> nn.Module:
    """The model of this name; its fp32 file, and an int8 file for each runtime that is here, by the runtime's name."""
    options, (shape, classes) = MODELS[name]
    model = randomised(create(options, classes=classes, image_shape=shape), shape)
    mean, std = [0.5] * shape[2], [0.25] * shape[2]
    write_files(model, {"fp32": folder / "fp32.onnx"}, mean=mean, std=std, image_shape=shape, classes=classes)
    for runtime in filter(_here, runtimes.readers()):
        images = pictures(CALIBRATION + JUDGES, shape)[:CALIBRATION]
        write_int8(folder / "fp32.onnx", folder / f"{runtime}.onnx", images, runs_on=runtime)
    return model


def _here(runtime: str) -> bool:
    return runtimes.get(runtime).missing() is None


def nncf_model(source: Path, shape: tuple[int, int, int], target: Path, *, transformer: bool) -> None:
    """NNCF's own int8 model of an ONNX file, in OpenVINO's format, for one image."""
    os.environ.setdefault("NNCF_CI", "1")  # or it reports its use
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    model.reshape([1, *shape])
    images = pictures(CALIBRATION + JUDGES, shape)[:CALIBRATION]
    dataset = nncf.Dataset([image[None] for image in images])
    kind = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
    openvino.save_model(nncf.quantize(model, dataset, subset_size=CALIBRATION, **kind), target, compress_to_fp16=False)


def candidates(name: str, folder: Path) -> tuple[list[Candidate | Latency], dict[str, float]]:
    """The rows of one model, whose files go into `folder`, and the cosine to fp32 of each that is not fp32."""
    shape = MODELS[name][1][0]
    model = write(name, folder)
    rows: list[Candidate | Latency] = []
    cosines: dict[str, float] = {}
    images = pictures(CALIBRATION + JUDGES, shape)[CALIBRATION:]
    for runtime in filter(_here, runtimes.readers()):
        with runtimes.get(runtime).open(folder / "fp32.onnx") as opened:
            exact = opened.logits(images)
        for precision, path in (("fp32", folder / "fp32.onnx"), ("int8", folder / f"{runtime}.onnx")):
            rows.append(onnx_candidate(path, precision=precision, threads=1, file=name, runtime=runtime))
            with runtimes.get(runtime).open(path) as opened:
                cosines[f"{runtime} {precision}"] = mean_cosine(exact, opened.logits(images))
    path = folder / "nncf.xml"
    row = onnx_candidate(folder / "fp32.onnx", precision="int8", threads=1, file=name, runtime=NNCF).row
    if _here("openvino") and importlib.util.find_spec("nncf"):
        closest = -1.0
        for transformer in (False, True):  # whichever is the closer one, as someone who looks would take
            attempt = folder / f"nncf-{transformer}.xml"
            nncf_model(folder / "fp32.onnx", shape, attempt, transformer=transformer)
            if (near := mean_cosine(exact, OpenVinoSession(attempt).logits(images, batch=1))) > closest:
                closest, path = near, attempt
        row["file_bytes"] = path.with_suffix(".bin").stat().st_size
        cosines[f"{NNCF} int8"] = closest
        rows.append(Candidate(row, partial(_openvino, path, shape)))
    else:
        rows.append(Latency(**row, status="not measured: NNCF is not installed; pip install nncf"))
    mean, std = [0.5] * shape[2], [0.25] * shape[2]
    return [*rows, *baseline(model, mean, std, name=name, image_shape=shape, threads=[1], compiled=False)], cosines


@contextmanager
def _openvino(path: Path, shape: tuple[int, int, int]) -> Iterator[Any]:
    yield OpenVinoSession(path).call(pictures(1, shape))


def compare(plan: Plan, names: list[str]) -> tuple[LatencyRecord, dict[str, dict[str, float]]]:
    """One run per model, its rows interleaved; and the cosines by model and row."""
    before, rows = conditions(), []
    cosines = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows_of_model, cosines[name] = candidates(name, Path(folder))
            timing = [one for one in rows_of_model if isinstance(one, Candidate)]
            with tqdm(total=plan.rounds * len(timing), desc=name, unit="turn", disable=None) as bar:
                turns = take_turns(timing, plan, progress=partial(_advance, bar))
            rows += [Latency(**measured(one.row, t)) for one, t in zip(timing, turns, strict=True)]
            rows += [one for one in rows_of_model if isinstance(one, Latency)]
    state = {"before": before, "after": conditions()}
    options = {"min_seconds": plan.min_seconds, "min_samples": plan.min_samples, "rounds": plan.rounds}
    return LatencyRecord(device=fingerprint(), conditions=state, options=options, rows=rows), cosines


def _advance(bar: tqdm, _: str) -> None:
    bar.update()


def speeds(record: LatencyRecord) -> pd.DataFrame:
    """A line per measured row: its model, what it ran on, and how often it was as fast as ONNX Runtime's fp32."""
    base = {row.file: row.p50_ms for row in record.rows if (row.runtime, row.precision) == ("onnxruntime", "fp32")}
    return pd.DataFrame(
        {"model": row.file, "runs on": f"{runs_on(row.runtime, None)} {row.precision}", "speed": known / row.p50_ms}
        for row in record.rows
        if row.p50_ms and (known := base[row.file])
    )


def table(record: LatencyRecord, cosines: dict[str, dict[str, float]]) -> str:
    """p50, p99, size, cosine, and how often a row is as fast as ONNX Runtime's fp32."""
    speed = iter(speeds(record)["speed"])
    lines = []
    for row in record.rows:
        head = {"model": row.file, "runs on": runs_on(row.runtime, None), "precision": row.precision}
        if row.p50_ms is None:
            lines.append(head | {"p50": row.status, "p99": "", "size": "", "cosine": "", "times fp32": ""})
            continue
        near = cosines[row.file].get(f"{row.runtime} {row.precision}")
        p99 = "too few samples" if row.p99_ms is None else f"{row.p99_ms:.3g} ms"
        head |= {"p50": f"{row.p50_ms:.3g} ms" + (" (noisy)" if row.noisy else ""), "p99": p99}
        head |= {"size": size(row.file_bytes) if row.file_bytes else "-"}
        lines.append(head | {"cosine": "-" if near is None else f"{near:.4f}", "times fp32": f"{next(speed):.2f}"})
    return markdown(lines)


def chart(frame: pd.DataFrame) -> alt.Chart:
    """Speed over ONNX Runtime's fp32, a bar per row, the models one below the other."""
    order = [*dict.fromkeys(frame["runs on"])]
    bars = alt.Chart(frame).mark_bar()
    return bars.encode(
        x=alt.X("speed:Q", title="times as fast as ONNX Runtime fp32"),
        y=alt.Y("runs on:N", title=None, sort=order, axis=alt.Axis(labels=False, ticks=False)),
        color=alt.Color("runs on:N", title=None, sort=order),
        row=alt.Row("model:N", title=None, sort=[*MODELS], header=alt.Header(labelAngle=0, labelAlign="left")),
    ).properties(width=420, height=alt.Step(9))


def beside_a_loop(folder: Path, rounds: int) -> pd.DataFrame:
    """CPU seconds of `CALLS` calls of the default student: a bare loop, and ours with its clock and its list."""
    write("default student", folder)
    with session("onnxruntime", folder / "fp32.onnx") as infer:
        bare_session, feed = infer.func.__self__, infer.args[1]  # type: ignore[attr-defined]

        def bare() -> None:
            for _ in range(CALLS):
                bare_session.run(None, feed)

        def ours() -> None:
            timed(infer, 0.0, CALLS)

        return interleaved({"bare": bare, "ours": ours}, rounds=rounds, clock=time.process_time)


def main(
    harness: bool = False,
    only: Annotated[list[str] | None, typer.Option(help="A model of the table; may be repeated.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png file.")] = None,
) -> None:
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
    record, cosines = compare(Plan(min_seconds=2.0, rounds=10), named(only, MODELS))
    print(table(record, cosines))
    print(*[f"- {line}" for line in notes(record)], sep="\n")
    if plot:
        save(chart(speeds(record)), plot)


if __name__ == "__main__":
    command(main, __doc__)
