"""How well is the scratch twin tuned? Validation top-1 of scratch and RSD over learning rates.

    python -m benchmarks.tune_twin 0.005 0.01 0.02 --epochs 40

Reads what `dvc repro embed` made; touches no test image. One row per learning rate, mean and standard deviation
over the seeds. The recipe in conf/recipe/ is the setting that is best for *scratch*, not for RSD.
"""

import numpy as np
import torch

from benchmarks.command import command
from benchmarks.interleaved import print_rows
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.files import read_json
from rsd.methods import distiller
from rsd.methods.base import Setting
from rsd.models.student import StudentOptions
from rsd.sources.images import read_record, read_split
from rsd.teacher.store import StoredTeacher, ViewOptions
from rsd.training.loop import Data, Session, train
from rsd.training.recipe import Recipe, make_criterion
from rsd.views.augment import ViewChoice
from stages import OUT

SEEDS = (0, 1, 2)


def validation_top1(
    method: str, seed: int, recipe: Recipe, *, teacher: StoredTeacher | None, views: ViewChoice, name: str
) -> float:
    """Train one student as the stage `distill` would; its selected validation top-1 in per cent."""
    record = read_record(OUT.data)
    torch.manual_seed(seed)
    start = OUT.section("student", StudentOptions).start(record)
    kind = distiller(method)
    setting = Setting(teacher_width=teacher.embedding.shape[2] if teacher else None)
    task = kind(start.model, setting, OUT.section(f"method/{method}", kind.Options), make_criterion(recipe))
    train_split, validation = read_split(OUT.data, "train"), read_split(OUT.data, "validation")
    data = Data(train_split, validation, start.preprocessing.module())
    return train(task, data, recipe, Session(seed, views, teacher, name=name)).selected["validation_top1"]


def main(learning_rates: list[float], epochs: int = 40) -> None:
    set_up(OUT.section("compute", ComputeOptions))
    made_from = read_json(OUT.views / "header.json")["made_from"]
    store = StoredTeacher(OUT.views, made_from=made_from, device=torch.device("cpu"))
    stored = OUT.section("views", ViewOptions)

    def row(rate: float) -> dict[str, str]:
        recipe = OUT.section("recipe", Recipe).model_copy(update={"epochs": epochs, "learning_rate": rate})
        cells = {"learning rate": f"{rate:g}"}
        for method, teacher in (("scratch", None), ("rsd", store)):
            top1 = []
            for seed in SEEDS:
                views = ViewChoice(stored.seed, stored.count) if teacher else ViewChoice(seed)
                name = f"{method}-{seed} lr {rate:g} {epochs} epochs"
                top1.append(validation_top1(method, seed, recipe, teacher=teacher, views=views, name=name))
            cells[method] = f"{np.mean(top1):.2f} +- {np.std(top1, ddof=1):.2f}"
        return cells

    print_rows(map(row, learning_rates))


if __name__ == "__main__":
    command(main, __doc__)
