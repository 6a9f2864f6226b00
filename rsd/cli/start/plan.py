"""The run that fits a folder of images: models, recipes, methods, seeds, and how long it will take."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from rsd.cli.start.estimate import Part, answer_seconds, step_seconds
from rsd.cli.start.files import ParamValue
from rsd.cli.start.models import Device, Model
from rsd.cli.start.recipe import fitting_recipe, recipe_text
from rsd.cli.start.survey import Survey
from rsd.machine.compute import ComputeOptions
from rsd.models.make import create
from rsd.training.recipe import Recipe

SEEDS = [0, 1, 2]
MOST_SECONDS = 2 * 3600  # a run that would take longer with three seeds gets one
VIEW_COUNTS = (30, 15, 8, 4)  # stored views of each image: the most that the teacher answers in `STORE_SECONDS`
STORE_SECONDS = 1800


class Plan(NamedTuple):
    """A run for a folder of images."""

    name: str
    survey: Survey
    labels: Path | None
    """The table of labels that the source reads."""
    size: int
    """Side in pixels at which images are served."""
    device: Device
    student: Model
    teacher: Model
    recipe: Recipe
    teacher_recipe: Recipe | None
    """Of a teacher that is trained here."""
    view_count: int
    seeds: list[int]
    parts: list[Part]
    """What the run does, with the estimated seconds."""

    @property
    def methods(self) -> list[str]:
        return ["scratch", "rsd", "rsd+kd"] if self.survey.unlabelled else ["scratch", "rsd"]

    def texts(self) -> dict[Path, str]:
        """The new files of conf/ by their paths."""
        conf, options, name = Path("conf"), self.survey.options, self.name
        by_command = f"The images of {options.root}; written by `rsd start`."
        labels = f"labels: {_value(str(self.labels))}\n" if self.labels else ""
        recipes = {name: self.recipe} | ({f"{name}-teacher": self.teacher_recipe} if self.teacher_recipe else {})
        data = f"""# {by_command}
source: folder
root: {_value(str(options.root))}
{labels}size: {self.size} # pixels at which images are served
crop_share: {options.crop_share} # validation, test and devices see the central square of this share of the shorter side
on_bad: {options.on_bad} # skip: leave out faulty files; stop: refuse them
validation: {options.validation}
test: {options.test}
seed: {options.seed}
"""
        few = {"select": "cross_validation"} if self.recipe.select == "last" else {}
        probe = few if self.teacher.section["source"] == "probe" else {}
        teacher = self.teacher.section | probe | ({"recipe": f"{name}-teacher"} if self.teacher_recipe else {})
        pair = f"""# {by_command}
data: {name}
recipe: {name}
teacher: # {self.teacher.why}
{_section(self.teacher, teacher)}student: # {self.student.why}
{_section(self.student, self.student.section)}"""
        return {
            conf / "data" / f"{name}.yaml": data,
            conf / "pair" / f"{name}.yaml": pair,
            **{
                conf / "recipe" / f"{one}.yaml": recipe_text(recipe, f"Trains the models of conf/pair/{name}.yaml.")
                for one, recipe in recipes.items()
            },
        }

    def params(self) -> dict[str, ParamValue]:
        """Dotted key of params.yaml -> value."""
        return {
            "pair": self.name,
            "data": None,
            "recipe": None,
            "methods": self.methods,
            "seeds": self.seeds,
            "precisions": list(self.device.precisions),
            "protocol": "ours",
            "override": {},
            "views.count": self.view_count,
            "export.method": None,
            "engine.library": self.device.engine,
            "bundle.name": None,
            "bundle.requires.architectures": list(self.device.architectures),
        }


def make_plan(
    name: str,
    survey: Survey,
    labels: Path | None,
    size: int,
    device: Device,
    models: tuple[Model, Model],
    compute: ComputeOptions,
) -> Plan:
    """Choose recipes, views and seeds, and time a few steps.

    Args:
        models: the student and the teacher.

    Raises:
        UserError: one of the models does not take the images.
    """
    student, teacher = models
    train, validation = (len(survey.index.splits[part].labels) for part in ("train", "validation"))
    recipe = fitting_recipe(train, pretrained="weights" in student.section, validation=validation)
    teacher_recipe = None
    if teacher.section["source"] in ("pretrain", "finetune"):
        pretrained = "weights" in teacher.section
        teacher_recipe = fitting_recipe(survey.labelled, pretrained=pretrained, validation=validation)
    images, classes = survey.training_images(size), len(survey.index.classes)
    shape, own_shape = ((side, side, 3) for side in (size, teacher.side or size))
    step = step_seconds(images, create(student.options, classes=classes, image_shape=shape), recipe, compute)
    own = create(teacher.options, classes=classes, image_shape=own_shape)
    answer = answer_seconds(images, own, recipe, compute, teacher.side)
    parts = [Part("reading the images", survey.seconds)]
    if teacher_recipe:
        seconds = step_seconds(images, own, teacher_recipe, compute) * _steps(teacher_recipe, survey.labelled)
        parts.append(Part(f"training the teacher, {_steps(teacher_recipe, survey.labelled):,} steps", seconds))
    fitting = (count for count in VIEW_COUNTS if count * train * answer <= STORE_SECONDS)
    views = min(next(fitting, VIEW_COUNTS[-1]), recipe.epochs)
    parts.append(Part(f"the teacher's answers, {views} views of each image", views * train * answer))
    plan = Plan(name, survey, labels, size, device, student, teacher, recipe, teacher_recipe, views, SEEDS, parts)
    steps = _steps(recipe, train)
    one = step * steps * len(plan.methods)
    seeds = SEEDS if sum(part.seconds for part in parts) + one * len(SEEDS) <= MOST_SECONDS else SEEDS[:1]
    students = len(plan.methods) * len(seeds)
    parts.append(Part(f"training {students} students, {steps:,} steps each", one * len(seeds)))
    return plan._replace(seeds=seeds)


def _steps(recipe: Recipe, images: int) -> int:
    return recipe.epochs * max(images // recipe.batch_size, 1)


def _section(model: Model, values: dict[str, str]) -> str:
    """The section of a model in a pair."""
    args = {"args": model.options.args} if model.options.args else {}
    section: dict[str, object] = {"name": model.options.name, **args, **values}
    return "".join(f"  {key}: {_value(value)}\n" for key, value in section.items())


def _value(value: object) -> str:
    """YAML of a plain value on one line: JSON, or a bare word."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", value):
        return value
    return json.dumps(value, ensure_ascii=False)
