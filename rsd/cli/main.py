"""The command `rsd`: its subcommands, and how it fails.

A command imports what it needs when it runs, so that `rsd --help` and the completion of the shell answer at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rsd import __version__
from rsd.cli import budget, sign
from rsd.cli.options import app_of, duration, number
from rsd.cli.start.command import start
from rsd.machine.errors import UserError

app = app_of("Set up a run, look at what it made, and ship it. `dvc repro` runs the pipeline itself.")
app.command()(start)
app.add_typer(budget.app, name="budget")
app.add_typer(sign.app, name="sign")

Bundle = Annotated[Path, typer.Argument(help="A bundle, such as out/bundle.")]


def _version(version: bool) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def table(
    folder: Annotated[Path | None, typer.Argument(help="The folder of a run.", show_default="out")] = None,
    time: Annotated[bool, typer.Option("--time", help="Print how long each stage took.")] = False,
) -> None:
    """Print the accuracies, sizes and latencies of the last run.

    Example: rsd table
    """
    from rsd.report import stage_times, table
    from rsd.run.paths import Run

    run = Run(folder) if folder else Run()
    print(stage_times.summary(run) if time else table.summary(run))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="The folder of a trained model, such as out/students/rsd-0.")],
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG, WebP, BMP or TIFF files.")],
) -> None:
    """Print the most likely classes of images, by a trained model.

    Example: rsd predict out/students/rsd-0 photo.jpg
    """
    from rsd.models.classify import classify

    for path, best in classify(model, images):
        print(f"{path}: " + ", ".join(f"{name} {probability:.1%}" for name, probability in best))


@app.command()
def latency(
    record: Annotated[Path, typer.Argument(help="A latency.json: of out/benchmark, or of a kit.")],
    folder: Annotated[Path, typer.Argument(help="Gets latency.md and latency.svg.")],
) -> None:
    """Write a latency record as a table and as a plot.

    Example: rsd latency out/benchmark/latency.json latency
    """
    from rsd.report.latency_table import read, write

    print(write(read(record), folder))


@app.command()
def sustained(
    model: Annotated[Path, typer.Argument(help="An ONNX file with one uint8 input [N, H, W, C].")],
    time: Annotated[str, typer.Option("--for", metavar="TIME", help="Such as 90s.")] = "10m",
    threads: Annotated[int, typer.Option(parser=number(int, 1, 1024), help="CPU threads.")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="Gets every sample, the record and the plot.", show_default="out/sustained")
    ] = None,
) -> None:
    """Time a model for minutes and plot how its latency drifts.

    Example: rsd sustained out/convert/fp32/model.onnx --for 10m
    """
    from rsd.machine.progress import progress
    from rsd.measure.latency import session
    from rsd.measure.sustained import sustained
    from rsd.report.drift import write
    from rsd.run.paths import Run

    seconds = duration(time)
    if not model.is_file():
        raise UserError(f"expected an ONNX file at {model}, found none; `dvc repro convert` writes one")
    with (
        session("onnxruntime", model, threads) as infer,
        progress(total=round(seconds), name=model.name, unit="s") as bar,
    ):
        windows, samples = sustained(infer, seconds, progress=bar.update)
    print(write(folder or Run().sustained, model, threads, seconds, windows, samples), end="")


@app.command()
def triton(
    bundle: Bundle,
    repository: Annotated[Path, typer.Argument(help="The folder for tritonserver --model-repository.")],
    max_batch: Annotated[
        int, typer.Option(parser=number(int, 1, 65_536), help="The largest batch of the ONNX models.")
    ] = 8,
) -> None:
    """Write a bundle as a Triton model repository.

    Example: rsd triton out/bundle models
    """
    from rsd.export.triton import write_repository

    for name, outcome in write_repository(bundle, repository, max_batch=max_batch).items():
        print(f"{name}: {outcome}")


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="Holds *.yaml, each written as a params.yaml.")]) -> None:
    """Check params files and print a line of JSON for each.

    A line holds the digest of every section that the file resolves to, or the sentence that refuses the file. Stages
    that read sections of equal digests give equal results.

    Example: rsd check my-params
    """
    import json

    from rsd.config.check import check as answer

    for file in sorted(folder.glob("*.yaml")):
        print(json.dumps(answer(file, Path("conf"))))


@app.command()
def nodes(
    command: Annotated[
        list[str] | None, typer.Argument(help="What the first node runs, such as `-- dvc repro`; others ignore it.")
    ] = None,
    node: Annotated[
        int | None,
        typer.Option(
            parser=number(int, 0, 1023), help="This node; the first is 0 and leads.", show_default="0, or Slurm's"
        ),
    ] = None,
    leader: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="The first node.", show_default="Slurm's first host")
    ] = None,
) -> None:
    """Train on several machines; run it on each.

    The first node runs the command, and the others take part in its trainings. With Slurm,
    `srun rsd nodes -- dvc repro` starts all of them.

    Example: rsd nodes -- dvc repro
    """
    import os

    from rsd.machine.node import this_node

    own = this_node(node, leader, os.environ)
    if not own.number and not command:
        raise UserError("expected a command for the first node, found none; run `rsd nodes -- dvc repro`")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the sentences of this project say more; before torch
    from rsd.machine.nodes import follow, interrupt_by_terminate, lead

    interrupt_by_terminate()
    if own.number:
        follow(own)
    elif status := lead(own, command or []):
        raise typer.Exit(status)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0 on success, 1 with a sentence on stderr, 2 on a wrong option."""
    try:
        app(arguments, prog_name="rsd")
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: expected to read and write these files, found: {error}")
