"""The tables and pictures of docs/sensitivity.md, from the sweep `sensitivity`.

    make sensitivity    # python -m pipelines.sweep sensitivity, then this; again: what is missing

Settings are chosen on two pairs by validation alone; the other four have their test split read, once, to judge the
choice. Writes docs/sensitivity/students.csv, a row per student, and from it the tables that stand between marks in
docs/sensitivity.md; pictures go beside it.
"""

from pathlib import Path

from benchmarks.command import command
from benchmarks.marked import put
from benchmarks.sensitivity.charts import along_chart, grid_chart
from benchmarks.sensitivity.students import students
from benchmarks.sensitivity.tables import held_out_table, tables
from benchmarks.study.charts import save
from benchmarks.study.students import read_sweep, through_file

PAGE, FOLDER = Path("docs/sensitivity.md"), Path("docs/sensitivity")


def main() -> None:
    frame = through_file(students(read_sweep("sensitivity")), FOLDER / "students.csv")
    put(PAGE, tables(frame))
    for name, draw in {"grid": grid_chart, "settings": along_chart}.items():
        save(draw(frame), FOLDER / f"{name}.png")
    print(held_out_table(frame))


if __name__ == "__main__":
    command(main, __doc__)
