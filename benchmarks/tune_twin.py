"""How well is the scratch twin tuned? Validation top-1 of scratch and RSD over learning rates and epochs.

    python -m benchmarks.tune_twin --learning-rates 0.002 0.005 0.01 --epochs 30 60

Reads what `dvc repro embed` made; touches no test image. One row per setting, mean and standard deviation
over the seeds. The recipe in conf/recipe/ is the setting that is best for *scratch*, not for RSD.
"""

import argparse

import pandas as pd
import torch

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


def validation_top1(method: str, seed: int, recipe: Recipe) -> float:
    """Train one student as the `distill` stage would; its selected validation top-1 in per cent."""
    data = read_record(OUT.data)
    torch.manual_seed(seed)
    start = OUT.section("student", StudentOptions).start(data)
    task_class = distiller(method)
    teacher, width, views = None, None, ViewChoice(seed)
    if task_class.needs:
        header = read_json(OUT.views / "header.json")
        teacher = StoredTeacher(OUT.views, made_from=header["made_from"], device=torch.device("cpu"))
        width = teacher.embedding.shape[2]
        options = OUT.section("views", ViewOptions)
        views = ViewChoice(options.seed, options.count)
    method_options = OUT.section(f"method/{method}", task_class.Options)
    task = task_class(start.model, Setting(teacher_width=width), method_options, make_criterion(recipe))
    train_split, validation = read_split(OUT.data, "train"), read_split(OUT.data, "validation")
    name = f"{method}-{seed} lr {recipe.learning_rate} {recipe.epochs} epochs"
    session = Session(seed, views, teacher, name=name)
    trained = train(task, Data(train_split, validation, start.preprocessing.module()), recipe, session)
    return trained.selected["validation_top1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[0.002, 0.005, 0.01])
    parser.add_argument("--epochs", type=int, nargs="+", default=[30])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    set_up(OUT.section("compute", ComputeOptions))
    recipe = OUT.section("recipe", Recipe)
    rows = []
    for epochs in arguments.epochs:
        for rate in arguments.learning_rates:
            tried = recipe.model_copy(update={"epochs": epochs, "learning_rate": rate})
            row: dict[str, float | str] = {"epochs": epochs, "learning_rate": rate}
            for method in ("scratch", "rsd"):
                top1 = pd.Series([validation_top1(method, seed, tried) for seed in arguments.seeds])
                row[method] = f"{top1.mean():.2f} +- {top1.std():.2f}"
            rows.append(row)
            print(pd.DataFrame(rows).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
