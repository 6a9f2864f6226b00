"""`rsd start`: one command for a folder of images."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from rsd.machine.errors import UserError


def start(
    images: Annotated[Path, typer.Argument(help="A folder: CLASS/*.jpg, or any images with --labels.")],
    labels: Annotated[Path | None, typer.Option(help="A table: a column of paths, one of classes.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column of classes, by name or number.", show_default="the only one")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A timm model, or a file of weights.", show_default="the best at hand")
    ] = None,
    student: Annotated[str | None, typer.Option(help="A timm model.", show_default="one for the device")] = None,
    device: Annotated[str, typer.Option(help="Where the student will run: pi5, cpu or jetson.")] = "cpu",
    name: Annotated[
        str | None, typer.Option(help="Of the new files in conf/.", show_default="the folder's name")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files of that name.")] = False,
) -> None:
    """Look at a folder of images and set up a run that fits it.

    Writes files of one name into conf/data, conf/pair and conf/recipe, and changes a few lines of params.yaml.

    Example: rsd start ~/my-images
    """
    from rsd.cli.start.files import PARAMS, check_place, read_compute, table_text, write_files

    root = images.expanduser().resolve()
    name = name or re.sub(r"[^a-z0-9._-]+", "-", root.name.lower()).strip("-._") or "images"
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,50}", name):
        raise UserError(f"expected a name of small letters, digits, dots and dashes, found '{name}'; correct --name")
    if label_column and not labels:
        raise UserError("expected a table for --label-column, found none; give it by --labels")
    check_place(name, force=force)

    from rsd.cli.start.estimate import in_words
    from rsd.cli.start.label_table import read_label_table
    from rsd.cli.start.models import choose_student, choose_teacher, device_of, served_side
    from rsd.cli.start.plan import MOST_SECONDS, make_plan
    from rsd.cli.start.survey import described, survey
    from rsd.sources.label_file import labelled_layout
    from rsd.sources.layout import every_image

    kind = device_of(device)
    texts, table = {}, labels.expanduser().resolve() if labels else None
    with TemporaryDirectory() as scratch:
        file = table
        paths = every_image(root).unlabelled if table and root.is_dir() else []
        if table and paths:
            entries = read_label_table(table, root, paths, label_column)
            columns = "paths in column '{}', classes in '{}'".format(*entries.columns)
            print(f"{table}: {entries.separator}, {entries.encoding}; {columns}")
            if not entries.is_ours:
                labelled_layout(root, entries.rows, table)  # names the faulty rows of the table as it is
                table, file = Path("conf") / "data" / f"{name}.csv", Path(scratch) / "labels.csv"
                texts[table] = table_text(entries.rows)
                file.write_text(texts[table], encoding="utf-8")
        content = survey(root, file)
    print("\n".join(described(content)))

    size = served_side(content.side, kind)
    models = (
        choose_student(student, size, kind),
        choose_teacher(teacher, classes=content.index.classes, labels=content.labelled),
    )
    for role, model in zip(("student", "teacher"), models, strict=True):
        print(f"{role}: {model.options.name}, {model.why}" + (f"\n  {model.advice}" if model.advice else ""))
    plan = make_plan(name, content, table, size, kind, models, read_compute())
    changes = write_files(texts | plan.texts(), plan.params())
    for path in texts | plan.texts():
        print(f"wrote {path}")
    print(f"changed in {PARAMS}: " + "; ".join(changes))
    total = sum(part.seconds for part in plan.parts)
    print(f"a run takes about {in_words(total)} here: an estimate, from a few steps timed on this machine")
    for part in plan.parts:
        print(f"  {part.name}: {in_words(part.seconds)}")
    print("  export, timing and report on top: a few minutes")
    if total > MOST_SECONDS:
        print(f"  half the size in conf/data/{name}.yaml takes about a quarter of it")
    print("next: make repro (or dvc repro, then rsd table)")
