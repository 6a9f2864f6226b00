"""`rsd budget`: which student is the best under a latency budget, on a device."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rsd.cli.options import app_of, number
from rsd.machine.errors import UserError
from rsd.machine.words import counted

BUDGET = Path("budget")

app = app_of(
    "Find the best student that is fast enough on a device. Write a kit, run it there, import what it measured, "
    "and see what fits."
)


@app.command()
def kit(
    kit: Annotated[Path, typer.Argument(help="The kit to write: a folder, or a file that ends with .tar.gz.")],
    models: Annotated[
        list[str] | None, typer.Argument(help="timm models.", show_default="the student of the params, and a ladder")
    ] = None,
    precision: Annotated[list[str] | None, typer.Option(help="May be given again.", show_default="all")] = None,
    image: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            help="Of the images.",
            metavar="HEIGHT WIDTH CHANNELS",
            show_default="those of the data",
            parser=number(int, 1, 8192),
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(parser=number(int, 1, 1_000_000), help="Number of classes.", show_default="that of the data"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(parser=number(float, 0.001, 86_400), help="Time per row on the device, at least.")
    ] = 1.0,
) -> None:
    """Write a kit of students to time on a device, untrained.

    Example: rsd budget kit kit.tar.gz
    """
    from pydantic import ValidationError

    from rsd.export import precisions
    from rsd.machine.faults import in_words
    from rsd.measure.budget.kit import LADDER, arguments, write_kit
    from rsd.measure.latency import Plan
    from rsd.models.make import ModelOptions
    from rsd.models.student import StudentOptions
    from rsd.report.table import size
    from rsd.run.paths import Run
    from rsd.sources.images import read_record, read_split

    here, names = Run(), precision or precisions.names()
    for name in names:
        precisions.get(name)  # or a sentence
    shape, calibration = image, None
    if shape is None or classes is None:
        if not here.dataset.is_file():
            raise UserError(
                f"expected prepared data, for the image size and the classes, found none in {here.data}; "
                "run `dvc repro prepare`, or give --image 224 224 3 --classes 1000"
            )
        data = read_record(here.data)
        shape, classes = shape or data.image_shape, classes or len(data.classes)
        if shape == tuple(data.image_shape):
            calibration = read_split(here.data, "train").images[:32]
    try:
        students = [ModelOptions(name=name, args=arguments(name, shape[0])) for name in models or LADDER]
    except ValidationError as error:
        raise UserError(in_words(error.errors()[0])) from error
    ready = {}
    if not models and here.section_file("student").is_file():
        from rsd.measure.budget.records import shipped_student
        from rsd.run.snapshot import snapshot

        students.insert(0, here.section("student", StudentOptions).model)
        known = shipped_student(snapshot(here))
        if known and (known.model, known.args) == (students[0].name, students[0].args) and known.image == tuple(shape):
            ready = {one: here.onnx(one) for one in known.top1 if one in names}
    packed = write_kit(
        kit,
        students,
        image_shape=shape,
        classes=classes,
        precisions=names,
        plan=replace(Plan(cold_starts=1), min_seconds=seconds),
        ready=ready,
        calibration=calibration,
        say=print,
    )
    files = [file for candidate in packed for file in candidate.files.values()]
    total = size(sum(file.bytes for file in files))
    print(f"{counted(len(files), 'file')} of {counted(len(packed), 'student')}, {total} -> {kit}")
    folder = "kit" if kit.name.endswith(".tar.gz") else kit.name
    print(f"next, on the device: pip install onnxruntime numpy, then: python {folder}/run.py")


@app.command()
def run(
    kit: Annotated[Path, typer.Argument(help="A folder, or a .tar.gz.")],
    out: Annotated[Path, typer.Option(help="The file for the latencies.")] = Path("latency.json"),
) -> None:
    """Time a kit on this machine, as its run.py does on a device.

    Example: rsd budget run kit.tar.gz
    """
    from rsd.measure.budget import runner
    from rsd.measure.budget.kit import opened

    with opened(kit) as folder:
        try:
            runner.run(folder, out)
        except ValueError as error:
            raise UserError(str(error)) from error


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The latency.json of a device.")],
    name: Annotated[
        str | None, typer.Option(help="Of the file in budget/devices.", show_default="after the device")
    ] = None,
) -> None:
    """Keep what a kit measured on a device in budget/devices.

    Example: rsd budget import latency.json --name board
    """
    from rsd.machine.files import written_aside
    from rsd.measure.budget.records import read_device

    record = read_device(file)
    name = name or re.sub(r"[^a-z0-9]+", "-", record.device.full_name.lower()).strip("-")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UserError(f"expected a name of letters, digits, dots and dashes, found '{name}'; give another --name")
    target = BUDGET / "devices" / f"{name}.json"
    with written_aside(target) as aside:
        shutil.copyfile(file, aside)
    print(f"{record.device.short_name}: {counted(len(record.rows), 'row')} -> {target}")


@app.command()
def keep() -> None:
    """Note the student of the last run and its accuracy.

    The next run replaces the student; budget/trained.json keeps the note.

    Example: rsd budget keep
    """
    from rsd.machine.files import write_json
    from rsd.measure.budget.records import read_trained, shipped_student
    from rsd.run.paths import Run
    from rsd.run.snapshot import snapshot

    run = Run()
    known = snapshot(run)
    student = shipped_student(known)
    if student is None:
        cause = "; ".join(known.left_out) or "run `dvc repro`"
        raise UserError(f"expected a trained, evaluated and exported student in {run.folder}, found none ({cause})")
    path = BUDGET / "trained.json"
    others = [other for other in read_trained(path) if not (other.same(student) and other.data == student.data)]
    write_json(path, {"students": [trained.model_dump(mode="json") for trained in [*others, student]]})
    figures = ", ".join(f"{precision} {top1:.2f} %" for precision, top1 in student.top1.items())
    print(f"{student.model} ({student.student}) on {student.data}: {figures} -> {path}")


@app.command()
def show(
    p99: Annotated[
        float | None, typer.Option(parser=number(float, 0.001, 1_000_000), help="The budget: milliseconds at batch 1.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="The file for the plot.", show_default="out/budget.svg")] = None,
) -> None:
    """Print what fits a budget, and plot accuracy against p99.

    Example: rsd budget show --p99 5
    """
    from rsd.measure.budget import choose
    from rsd.report.budget_table import table, verdict
    from rsd.report.charts.speed import front
    from rsd.report.charts.style import save_svg
    from rsd.run.paths import Run

    run = Run()
    rows = choose.rows(BUDGET, run)
    if not rows:
        raise UserError(
            "expected latencies of a device, found none; import one (`rsd budget import FILE`) or run `dvc repro`"
        )
    if p99 is None:
        print(table(sorted(rows, key=lambda row: (row.device, row.p99_ms or float("inf")))))
    else:
        print(table(choose.feasible(rows, p99)), verdict(rows, p99), sep="\n\n")
    if any(row.top1 is not None and row.p99_ms is not None for row in rows):
        plot = plot or run.budget_plot
        save_svg(front(rows), plot)
        print(f"\nfront of accuracy against p99 -> {plot}")
    else:
        print("\nno plot: none of these was trained here yet")
