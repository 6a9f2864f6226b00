"""The tables and pictures of docs/study.md, from what the sweep `study` found.

    make study    # python -m pipelines.sweep study, then python -m benchmarks.study; again: what is missing

Writes docs/study/students.csv, a row per student, and from it the tables that stand between marks in docs/study.md.
Pictures go beside it: what the experiments of the sweep hold in out/evaluate/ is read from DVC's cache.
"""

import argparse
import io
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import dvc.api
import pandas as pd

from benchmarks.marked import put
from benchmarks.method_pictures import before_and_after
from benchmarks.study.charts import gain_chart, lead_chart, likeness_chart, rank_chart, save
from benchmarks.study.students import read, students
from benchmarks.study.tables import likeness_table, pair_table, tables
from pipelines.sweep import prepare, read_named
from rsd.errors import UserError
from rsd.files import written_aside
from rsd.report.charts.style import Figure

NAME = "study"
SHOWN = "fashion/cnn-vit"
"""The pair whose students are looked into in pictures; the table has all."""
FOUND, PAGE, FOLDER = Path("out/sweeps") / NAME / "students.csv", Path("docs/study.md"), Path("docs/study")


def read_inside(root: Path) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, Any]]]:
    """cka.csv and correlation.json of the experiments with the main methods, by pair, from DVC's cache."""
    ready = prepare(NAME, read_named(NAME, root), root)
    likeness, records = {}, {}
    for unit in ready.cells:
        if unit.name in ready.done and unit.values.get("methods") == "[scratch,kd,ofa,rsd]":
            read = partial(dvc.api.read, repo=str(root), rev=unit.name)
            pair = unit.values["pair"]
            likeness[pair] = pd.read_csv(io.StringIO(read("out/evaluate/cka.csv")))
            records[pair] = json.loads(read("out/evaluate/correlation.json"))
    return likeness, records


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not FOUND.is_file():
        raise UserError(
            f"expected the students of the study in {FOUND}, found none; run python -m pipelines.sweep {NAME}"
        )
    found = students(read(FOUND))
    likeness, records = read_inside(Path())
    FOLDER.mkdir(exist_ok=True)
    with written_aside(FOLDER / "students.csv") as aside:
        found.to_csv(aside, index=False, float_format="%.4f")
    found = pd.read_csv(FOLDER / "students.csv")  # so that what is shown can be had from what is kept
    put(PAGE, {**tables(found), "likeness": likeness_table(likeness, records)})
    figures: dict[str, Figure] = {
        "gains": gain_chart(found),
        "leads": lead_chart(found),
        "rank": rank_chart(found),
    }
    if SHOWN in likeness:
        figures |= {"cka": likeness_chart(likeness[SHOWN]), "p": before_and_after(records[SHOWN])}
    for name, figure in figures.items():
        save(figure, FOLDER / f"{name}.png")
    print(pair_table(found))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
