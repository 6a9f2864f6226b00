"""What share of a batch should have labels? The pair digits/few-labels over `recipe.labelled_share`.

    python -m benchmarks.study.share    # ten minutes on busy cores; started again, it runs what is missing

Scratch and RSD + KD, three seeds. Writes a row per student to docs/study/share.csv and the table between its marks in
docs/few_labels.md.
"""

import tempfile
from itertools import product
from pathlib import Path

import pandas as pd

from benchmarks.command import command
from benchmarks.marked import put, table
from benchmarks.study.taught import Images, Lesson, append, missing, over_seeds, recipe_of, rows, stored, teacher
from benchmarks.study.two_teachers import CASES
from rsd.machine.compute import ComputeOptions, set_up

PAGE, FILE = Path("docs/few_labels.md"), Path("docs/study/share.csv")
SHARES = (0.25, 0.5, 0.75)
METHODS = ("scratch", "rsd+kd")
SEEDS = (0, 1, 2)


def run(folder: Path) -> None:
    """Train the students that the table has not."""
    training = missing(FILE, ["seed", "share", "method"], product(SEEDS, SHARES, METHODS))
    if not training:
        return
    case = CASES["digits"]
    images, recipe = Images.prepared(case.data, folder), recipe_of(case.recipe)
    model = teacher("CNN", case.teachers["CNN"], images, recipe_of(case.teacher_recipe))
    lesson = Lesson(images, recipe, stored("CNN", model, images, recipe, case.views))
    for seed, share, method in training:
        fresh = lesson.student(case.student, method, case.labelled, seed, labelled_share=share)
        append(FILE, {"share": share, "method": method, "seed": seed, "test_top1": images.top1(fresh, "test")})


def share_table(frame: pd.DataFrame) -> str:
    """Test top-1 by the labelled share of a batch."""
    lines = [["labelled share of a batch", "scratch", "RSD + KD"]]
    for share, part in frame.groupby("share"):
        cells = [over_seeds(part[part.method == method].test_top1) for method in METHODS]
        lines.append([f"{share:g}", *cells])
    return table(lines)


def main() -> None:
    set_up(ComputeOptions())
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))
    part = share_table(rows(FILE))
    put(PAGE, {"share": part})
    print(part)


if __name__ == "__main__":
    command(main, __doc__)
