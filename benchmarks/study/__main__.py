"""The tables and pictures of docs/study.md, from the sweeps `study` and `why`.

    make study    # python -m pipelines.sweep study, the same for why, then python -m benchmarks.study

Writes docs/study/students.csv and docs/study/why.csv, a row per student, and from them the tables that stand between
marks in docs/study.md. Pictures go beside them: what the experiments of `study` hold in out/evaluate/ is read from
DVC's cache.
"""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import dvc.api
import pandas as pd

from benchmarks.command import command
from benchmarks.marked import put
from benchmarks.method_pictures import before_and_after
from benchmarks.study import why
from benchmarks.study.charts import gain_chart, lead_chart, likeness_chart, rank_chart, save
from benchmarks.study.students import read_sweep, students, through_file
from benchmarks.study.tables import likeness_table, pair_table, tables
from pipelines.sweep.grid import grids_of
from pipelines.sweep.prepare import prepare
from rsd.report.charts.style import Figure

NAME = "study"
SHOWN = "fashion/cnn-vit"
"""The pair whose students have pictures; the table has all pairs."""
PAGE, FOLDER = Path("docs/study.md"), Path("docs/study")


def read_inside(root: Path) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, Any]]]:
    """cka.csv and correlation.json of the experiments with the main methods, by pair, from DVC's cache."""
    ready = prepare(NAME, grids_of(NAME, {}, root), root)
    likeness, records = {}, {}
    for unit in ready.cells:
        if unit.name in ready.done and unit.values.get("methods") == "[scratch,kd,ofa,rsd]":
            read = partial(dvc.api.read, repo=str(root), rev=unit.name)
            pair = unit.values["pair"]
            likeness[pair] = pd.read_csv(io.StringIO(read("out/evaluate/cka.csv")))
            records[pair] = json.loads(read("out/evaluate/correlation.json"))["correlation"]
    return likeness, records


def main() -> None:
    frame = through_file(students(read_sweep(NAME)), FOLDER / "students.csv")
    parts = through_file(why.students(read_sweep("why")), FOLDER / "why.csv")
    likeness, records = read_inside(Path())
    put(PAGE, {**tables(frame), **why.tables(parts), "likeness": likeness_table(likeness, records)})
    figures: dict[str, Figure] = {
        "gains": gain_chart(frame),
        "leads": lead_chart(frame),
        "rank": rank_chart(frame),
        "sizes": why.size_chart(parts),
    }
    if SHOWN in likeness:
        figures |= {"cka": likeness_chart(likeness[SHOWN]), "p": before_and_after(records[SHOWN])}
    for name, figure in figures.items():
        save(figure, FOLDER / f"{name}.png")
    print(pair_table(frame))


if __name__ == "__main__":
    command(main, __doc__)
