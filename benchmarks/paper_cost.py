"""What the paper's 27 pairs cost: FLOPs counted from the models, hours by a throughput measured here or given.

    python -m benchmarks.paper_cost --tflops 10 # at 10 TFLOP/s kept up; half a minute
    python -m benchmarks.paper_cost             # at what each model reaches on this machine's GPU, or else its CPU
    python -m benchmarks.paper_cost --tflops 10 --plot docs/paper_cost.png

A forward pass is counted by `torch.utils.flop_counter` at 224 x 224, a multiplication and an addition as two. A
training step is taken as three of them: the counter's own backward pass of a depthwise convolution is many times too
large. What augmenting and reading the images takes is left out, and so are validation and the AAD.
"""

import time
from functools import cache, partial
from pathlib import Path
from typing import Annotated, NamedTuple

import altair as alt
import pandas as pd
import torch
import typer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import command
from benchmarks.interleaved import markdown
from benchmarks.overhead import CLASSES, PAIRS, SHAPE, built, options, pair_files
from rsd.machine.fingerprint import fingerprint, short_name
from rsd.machine.yaml_file import read_yaml
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import embedding_width
from rsd.report.charts.style import METHOD_COLOURS

ROOT = PAIRS.parents[1]
IMAGES = {"cifar100": 50_000, "imagenet": 1_281_167}
"""For training, under the paper's protocol."""
TRAINING_STEP = 3
"""In forward passes."""


class Cost(NamedTuple):
    """What one pair costs; FLOPs are those of the whole run."""

    data: str
    pair: str
    epochs: int
    forward: dict[str, float]
    """FLOPs of an image, of `teacher` and `student`."""
    student: float
    """To train the student alone, which is what the scratch twin costs."""
    live: float
    """To ask the teacher for a view in every epoch."""
    stored: float
    """To ask it once for the stored views."""
    finetuning: float
    """To make the teacher; 0 where it comes from the hub."""
    store: float
    """Bytes of the view store."""


@cache
def forward_flops(model: str, classes: int) -> float:
    """Of one image."""
    module = built(model, classes).eval()  # before the counter: to build a model is to try it on an image
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, SHAPE[2], *SHAPE[:2], device="meta"))
    return float(counter.get_total_flops())


def cost(file: Path, views: int) -> Cost:
    """The cost of the pair that `file` describes, with so many stored views."""

    def epochs(recipe: str) -> int:
        return int(read_yaml(ROOT / "conf" / "recipe" / f"{recipe}.yaml")["epochs"])

    pair = read_yaml(file)
    classes, images = CLASSES[pair["data"]], IMAGES[pair["data"]]
    teacher, student = (forward_flops(options(pair, role), classes) for role in ("teacher", "student"))
    length = epochs(pair["recipe"])
    recipe = pair["teacher"].get("recipe")
    width = embedding_width(built(options(pair, "teacher"), classes))
    return Cost(
        pair["data"],
        file.stem,
        length,
        {"teacher": teacher, "student": student},
        student=TRAINING_STEP * student * images * length,
        live=teacher * images * length,
        stored=teacher * images * views,
        finetuning=TRAINING_STEP * teacher * images * epochs(recipe) if recipe else 0.0,
        store=2.0 * images * views * (width + classes),
    )


@cache
def throughput(model: str, classes: int, *, training: bool, device: str, batch: int) -> float:
    """FLOP/s that a model reaches here, the fastest of three timings of at least a second, bf16 on a GPU."""
    module = create(ModelOptions.model_validate_json(model), classes=classes, image_shape=SHAPE).to(device)
    module.train(training)
    images = torch.randn(batch, SHAPE[2], *SHAPE[:2], device=device)
    flops = forward_flops(model, classes) * batch * (TRAINING_STEP if training else 1)

    def step() -> None:
        with torch.set_grad_enabled(training), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = module(images)
        if training:
            nn.functional.cross_entropy(logits.float(), logits.argmax(dim=1)).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    best = 0.0
    for _ in range(3):
        start, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - start < 1:
            step()
            count += 1
        best = max(best, flops * count / (time.perf_counter() - start))
    return best


def row(cost_of_pair: Cost, *, teacher: float, student: float) -> dict[str, str]:
    """A line of the table, in hours of one device at these FLOP/s of the two models."""
    twin, live, stored = cost_of_pair.student / student, cost_of_pair.live / teacher, cost_of_pair.stored / teacher

    def hours(seconds: float) -> str:
        return f"{seconds / 3600:.1f}" if seconds < 360_000 else f"{seconds / 3600:.0f}"

    return {
        "data": cost_of_pair.data,
        "teacher-student": cost_of_pair.pair,
        "epochs": str(cost_of_pair.epochs),
        "teacher, GFLOP": f"{cost_of_pair.forward['teacher'] / 1e9:.1f}",
        "student, GFLOP": f"{cost_of_pair.forward['student'] / 1e9:.1f}",
        "teacher's fine-tuning, h": hours(cost_of_pair.finetuning / teacher) if cost_of_pair.finetuning else "-",
        "scratch, h": hours(twin),
        "RSD, live teacher, h": hours(twin + live),
        "RSD, stored views, h": hours(twin + stored),
        "store, GB": f"{cost_of_pair.store / 1e9:.1f}",
    }


def chart(hours: pd.DataFrame) -> alt.HConcatChart:
    """A stacked bar per pair; the two data sets have an axis each, since they differ thirtyfold."""
    colours = alt.Scale(range=[METHOD_COLOURS["rsd"], METHOD_COLOURS["teacher"]])
    sides = [
        alt.Chart(group)
        .mark_bar()
        .encode(
            x=alt.X("hours:Q", title="hours of one device, one seed of RSD"),
            y=alt.Y("pair:N", title=None, sort=None, axis=alt.Axis(labelLimit=200)),
            color=alt.Color("what:N", title=None, sort=None, scale=colours, legend=alt.Legend(orient="top")),
        )
        .properties(width=260, title=str(data))
        for data, group in hours.groupby("data", sort=False)
    ]
    return alt.hconcat(*sides)


def main(
    tflops: Annotated[float | None, typer.Option(help="Of a device, kept up; measured here if not given.")] = None,
    views: Annotated[int | None, typer.Option(help="Stored views; default: views.count of params.yaml.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png or .svg of training and live teacher.")] = None,
) -> None:
    views = views or int(read_yaml(ROOT / "params.yaml")["views"]["count"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = 128 if device == "cuda" else 8
    rows, bars, total = [], list[dict[str, object]](), 0.0
    for file in pair_files():
        pair, pair_cost = read_yaml(file), cost(file, views)
        if tflops:
            teacher = student = tflops * 1e12
        else:
            reached = partial(throughput, classes=CLASSES[pair_cost.data], device=device, batch=batch)
            teacher = reached(options(pair, "teacher"), training=False)
            student = reached(options(pair, "student"), training=True)
        rows.append(row(pair_cost, teacher=teacher, student=student))
        for what, seconds in (("student", pair_cost.student / student), ("live teacher", pair_cost.live / teacher)):
            bars.append({"data": pair_cost.data, "pair": pair_cost.pair, "what": what, "hours": seconds / 3600})
        total += (pair_cost.finetuning + pair_cost.live) / teacher + 2 * pair_cost.student / student
    print(markdown(rows))
    where = f"measured on {short_name(fingerprint())}, {device}, batch {batch}"
    if tflops:
        where = f"assumed, not measured: {tflops:g} TFLOP/s kept up"
    print(f"\n{where}; {views} stored views")
    if plot:
        chart(pd.DataFrame(bars)).save(plot, scale_factor=1.5)
    print(f"all pairs, one seed of scratch and of RSD with a live teacher: {total / 3600:,.0f} hours")


if __name__ == "__main__":
    command(main, __doc__)
