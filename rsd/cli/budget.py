"""Which student is the best under my latency budget, on my device?

python -m rsd.cli.budget kit KIT             # a folder, or KIT.tar.gz: candidates and what times them
python KIT/run.py                        # on the device; needs onnxruntime and numpy; writes latency.json
python -m rsd.cli.budget import latency.json # here
python -m rsd.cli.budget keep                # after a training: notes the shipped student and its accuracy
python -m rsd.cli.budget show --p99 5        # what fits 5 ms, the best of it, and the front
"""

import argparse
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rsd.machine.errors import UserError
from rsd.machine.files import read_json, write_json, written_aside
from rsd.measure.budget import choose
from rsd.measure.budget.records import read_device, read_trained, shipped
from rsd.report.charts.speed import front
from rsd.report.charts.style import save_svg
from rsd.report.table import milliseconds, size

OUT, BUDGET = Path("out"), Path("budget")


def kit(given: argparse.Namespace) -> None:
    from rsd.measure.budget.kit import (  # torch and timm, which the other commands do not need
        LADDER,
        arguments,
        write_kit,
    )
    from rsd.measure.latency import Plan
    from rsd.models.timm_model import ModelOptions
    from rsd.sources.images import read_record, read_split

    shape, classes, calibration = given.image, given.classes, None
    if shape is None or classes is None:
        if not (OUT / "data" / "dataset.json").is_file():
            raise UserError(
                "expected prepared data, whose image size and classes the candidates take, found none in out/data; "
                "run `dvc repro prepare`, or give --image 224 224 3 --classes 1000"
            )
        data = read_record(OUT / "data")
        shape, classes = shape or data.image_shape, classes or len(data.classes)
        if tuple(shape) == tuple(data.image_shape):
            calibration = read_split(OUT / "data", "train").images[:32]
    names = given.models or LADDER
    students = [ModelOptions(name=name, args=arguments(name, shape[0])) for name in names]
    ready = {}
    own = OUT / "params" / "student.json"
    if not given.models and own.is_file():
        students.insert(0, ModelOptions.model_validate(read_json(own)))
        known = shipped(OUT)
        if known and (known.model, known.args) == (students[0].name, students[0].args) and known.image == tuple(shape):
            ready = {p: OUT / "export" / p / "model.onnx" for p in known.top1 if p in given.precisions}
    packed = write_kit(
        given.kit,
        students,
        image_shape=tuple(shape),
        classes=classes,
        precisions=given.precisions,
        plan=replace(Plan(cold_starts=1), min_seconds=given.seconds),
        ready=ready,
        calibration=calibration,
        say=print,
    )
    count = sum(len(one["files"]) for one in packed)
    total = sum(file["bytes"] for one in packed for file in one["files"].values())
    print(f"{count} files of {len(packed)} students, {size(total)} -> {given.kit}")
    folder = "kit" if given.kit.name.endswith(".tar.gz") else given.kit.name
    print(f"next, on the device: pip install onnxruntime numpy, then: python {folder}/run.py")


def run(given: argparse.Namespace) -> None:
    from rsd.measure.budget import runner
    from rsd.measure.budget.kit import opened

    with opened(given.kit) as folder:
        try:
            runner.run(folder, given.out)
        except ValueError as error:
            raise UserError(str(error)) from error


def take(given: argparse.Namespace) -> None:
    record = read_device(given.file)
    name = given.name or re.sub(r"[^a-z0-9]+", "-", record.device.full_name.lower()).strip("-")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UserError(f"expected a name of letters, digits, dots and dashes, found '{name}'; give another --name")
    target = BUDGET / "devices" / f"{name}.json"
    with written_aside(target) as aside:
        shutil.copyfile(given.file, aside)
    print(f"{record.device.short_name}: {len(record.rows)} rows -> {target}")


def keep(given: argparse.Namespace) -> None:
    found = shipped(OUT)
    if found is None:
        raise UserError("expected a trained, evaluated and exported student in out/, found none; run `dvc repro`")
    path = BUDGET / "trained.json"
    others = [one for one in read_trained(path) if not (one.same(found) and one.data == found.data)]
    write_json(path, {"students": [one.model_dump(mode="json") for one in [*others, found]]})
    figures = ", ".join(f"{precision} {top1:.2f} %" for precision, top1 in found.top1.items())
    print(f"{found.model} ({found.student}) on {found.data}: {figures} -> {path}")


def show(given: argparse.Namespace) -> None:
    found = choose.rows(BUDGET, OUT)
    if not found:
        raise UserError(
            "expected latencies of a device, found none; import one (`python -m rsd.cli.budget import FILE`) "
            "or run `dvc repro`"
        )
    if given.p99 is not None:
        print(table(choose.feasible(found, given.p99)))
        dropped = [row for row in found if not row.fits(given.p99)]
        print(f"\n{len(dropped)} of {len(found)} do not fit a p99 of {given.p99:g} ms at batch 1:")
        for row in dropped:
            why = _unknown(row) if row.p99_ms is None else milliseconds(row.p99_ms)
            why += " (noisy)" if row.latency.noisy else ""
            print(f"  {row.name} {row.precision} on {row.device}: {why}")
        for device, chosen in choose.best(found, given.p99).items():
            if chosen is None:
                print(f"\n{device}: no student that was trained here fits; train one of those above (README)")
            else:
                threads = chosen.latency.threads
                print(
                    f"\n{device}: the best is {chosen.name} {chosen.precision} ({chosen.student}), {chosen.top1:.2f} % "
                    f"at p99 {milliseconds(chosen.p99_ms)}, {threads} thread{'' if threads == 1 else 's'}"
                )
    else:
        print(table(sorted(found, key=lambda row: (row.device, row.p99_ms or float("inf")))))
    if any(row.top1 is not None and row.p99_ms is not None for row in found):
        save_svg(front(found), given.plot)
        print(f"\nfront of accuracy against p99 -> {given.plot}")
    else:
        print("\nno plot: none of these was trained here yet")


def table(found: list[choose.Row]) -> str:
    """Markdown; every row with its device."""
    best = set(map(id, choose.pareto(found)))
    head = ["device", "student", "parameters", "precision", "threads", "p50", "p99", "file", "test top-1", "front"]
    lines = [head, ["---"] * len(head)]
    for row in found:
        latency = row.latency
        lines.append(
            [
                row.device,
                row.name,
                "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
                row.precision,
                str(latency.threads),
                milliseconds(latency.p50_ms),
                (_unknown(row) if row.p99_ms is None else milliseconds(row.p99_ms))
                + (" (noisy)" if latency.noisy else ""),
                "-" if latency.file_bytes is None else size(latency.file_bytes),
                "not trained" if row.top1 is None else f"{row.top1:.2f} % ({row.student})",
                "yes" if id(row) in best else "",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _unknown(row: choose.Row) -> str:
    return row.latency.status if row.latency.samples is None else f"too few samples ({row.latency.samples} of 662)"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rsd.cli.budget", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("kit", help="write a kit of candidate students")
    one.add_argument("kit", type=Path, help="a folder, or a name that ends with .tar.gz")
    one.add_argument("--models", nargs="+", help="timm models; default: the student of the params, and a ladder")
    one.add_argument("--precisions", nargs="+", choices=["fp32", "fp16", "int8"], default=["fp32", "fp16", "int8"])
    one.add_argument("--image", nargs=3, type=int, metavar=("HEIGHT", "WIDTH", "CHANNELS"), help="default: the data's")
    one.add_argument("--classes", type=int, help="default: the data's")
    one.add_argument("--seconds", type=float, default=1.0, help="least time per row on the device")
    one.set_defaults(command=kit)
    one = commands.add_parser("run", help="run a kit on this machine")
    one.add_argument("kit", type=Path)
    one.add_argument("--out", type=Path, default=Path("latency.json"))
    one.set_defaults(command=run)
    one = commands.add_parser("import", help="take over what a device measured")
    one.add_argument("file", type=Path)
    one.add_argument("--name", help="of the file in budget/devices; default: after the device")
    one.set_defaults(command=take)
    one = commands.add_parser("keep", help="note the student of the last run and its accuracy")
    one.set_defaults(command=keep)
    one = commands.add_parser("show", help="what fits the budget")
    one.add_argument("--p99", type=float, help="the budget: milliseconds at batch 1")
    one.add_argument("--plot", type=Path, default=OUT / "budget.svg")
    one.set_defaults(command=show)
    given = parser.parse_args(arguments)
    try:
        given.command(given)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
