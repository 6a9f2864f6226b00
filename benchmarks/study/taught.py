"""What studies of few labels share: images, a teacher that has learned from others, its views, a student; no stages.

One process trains many students, and one teacher and one view store serve every number of labels: neither depends on
the student's labels.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.study.tables import bounds, mean_and_deviation
from rsd.machine.yaml_file import read_yaml
from rsd.methods import distiller
from rsd.methods.base import Distiller, Setting
from rsd.methods.scratch import ScratchDistiller
from rsd.models.make import ModelOptions, create
from rsd.models.pixels import PixelNormalize
from rsd.models.predict import predict
from rsd.models.student import StudentOptions
from rsd.report.interval import interval
from rsd.run.names import HEADER
from rsd.run.paths import Run
from rsd.sources.base import Source
from rsd.sources.images import DatasetRecord, LabelledImages, read_split, sample_indices
from rsd.sources.labels import hide_labels
from rsd.teacher.embed import write_store
from rsd.teacher.store import StoredTeacher, ViewOptions
from rsd.training.loop import Data, Session, Teacher, train
from rsd.training.recipe import Recipe, make_criterion
from rsd.views.augment import ViewChoice

STATE = Path(".state/taught")
"""Where teachers and what they have said wait for the next start of the command."""
CURVE_IMAGES = 200
"""Validation images after each epoch of a student: its last epoch counts, whatever they say."""


@dataclass(frozen=True)
class Images:
    """Prepared images of which all have a label."""

    name: str
    """Of conf/data."""
    folder: Path
    record: DatasetRecord
    normalize: PixelNormalize
    splits: dict[str, LabelledImages] = field(default_factory=dict)

    @classmethod
    def prepared(cls, name: str, folder: Path) -> "Images":
        """The images of conf/data/NAME.yaml, written below `folder`."""
        run = Run.of(folder)
        record = Source.model_validate(read_yaml(Path("conf/data") / f"{name}.yaml") | {"labelled": None}).prepare(
            run.data
        )
        run.write(record)
        return cls(name, run.data, record, PixelNormalize(record.mean, record.std))

    def split(self, name: str) -> LabelledImages:
        """In memory, at the size at which they are served: nothing is scaled anew for each batch."""
        if name not in self.splits:
            split = read_split(self.folder, name)
            self.splits[name] = split._replace(images=split.images[:])
        return self.splits[name]

    def train(self, labelled: int | float) -> LabelledImages:
        """The student's images, most labels hidden as `data.labelled` hides them."""
        images = self.split("train")
        labels = hide_labels(images.labels, labelled, images.classes, seed=0)
        return images._replace(labels=labels)

    def new(self, options: ModelOptions) -> nn.Module:
        """A student's options may name the weights that it starts from."""
        if isinstance(options, StudentOptions):
            return options.start(self.record).model
        return create(options, classes=len(self.record.classes), image_shape=self.record.image_shape)

    def logits(self, model: nn.Module, split: str) -> Tensor:
        return predict(model, self.normalize, self.split(split).images, batch_size=256).logits

    def top1(self, model: nn.Module, split: str) -> float:
        """In per cent."""
        return top1(self.logits(model, split), self.split(split).labels)


def top1(logits: Tensor, labels: np.ndarray) -> float:
    """In per cent."""
    return 100 * float((logits.argmax(dim=1) == torch.from_numpy(labels)).double().mean())


def recipe_of(name: str) -> Recipe:
    """A recipe of conf/recipe."""
    return Recipe.model_validate(read_yaml(Path("conf/recipe") / f"{name}.yaml"))


def teacher(kind: str, options: ModelOptions, images: Images, recipe: Recipe) -> nn.Module:
    """A teacher, trained on the images that are set apart for it; the next call reads it."""
    torch.manual_seed(0)
    model, file = images.new(options), STATE / f"{images.name}-{kind}.safetensors"
    if not file.is_file():
        task = ScratchDistiller(model, criterion=make_criterion(recipe))
        data = Data(images.split("teacher"), images.split("validation"), images.normalize)
        trained = train(task, data, recipe, Session(0, ViewChoice(0), name=f"teacher {kind}"))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(trained.student, file)
    model.load_state_dict(load_file(file))
    return model


def stored(
    name: str, model: nn.Module, images: Images, recipe: Recipe, views: int, normalize: PixelNormalize | None = None
) -> StoredTeacher:
    """What the teacher says of `views` views of each image of the student; the next call with these reads it.

    Args:
        name: of the teacher.
        normalize: what it is fed; None: what students are fed.
    """
    options = ViewOptions(count=views)
    digest = hashlib.sha256(f"{recipe.augment.model_dump_json()}{options.model_dump_json()}".encode()).hexdigest()[:8]
    folder = STATE / f"{images.name}-{name}-{digest}"
    if not (folder / HEADER).is_file():
        write_store(
            folder, model, normalize or images.normalize, images.split("train"), augment=recipe.augment,
            options=options, made_from={}, unfinished=folder.with_suffix(".unfinished"),
        )  # fmt: skip
    return StoredTeacher(folder, made_from={}, device=torch.device("cpu"))


def student(
    options: ModelOptions,
    images: Images,
    train_images: LabelledImages,
    recipe: Recipe,
    make_task: Callable[[nn.Module], Distiller],
    taught_by: tuple[Teacher, int] | None,
    seed: int,
) -> nn.Module:
    """A student as the stage `distill` trains it.

    Args:
        make_task: the method, for the fresh student.
        taught_by: the teacher and how many views it has stored; None for the scratch twin, who sees fresh views.
    """
    torch.manual_seed(seed)
    fresh = images.new(options)
    task = make_task(fresh)
    whole = images.split("validation")
    few = sample_indices(len(whole.labels), CURVE_IMAGES)
    curve = whole._replace(images=whole.images[few], labels=whole.labels[few])
    views = ViewChoice(0, taught_by[1]) if taught_by else ViewChoice(seed)
    session = Session(seed, views, taught_by[0] if taught_by else None, name=f"{task.method}-{seed}")
    trained = train(task, Data(train_images, curve, images.normalize), recipe, session)
    fresh.load_state_dict(trained.student)
    return fresh


@dataclass(frozen=True)
class Lesson:
    """Images, and what a teacher says of stored views of them: all that students of any method and labels need."""

    images: Images
    recipe: Recipe
    store: StoredTeacher

    def student(
        self, options: ModelOptions, method: str, labelled: int | float, seed: int, **changes: object
    ) -> nn.Module:
        """A student by a method of the project with its default options; `changes` are of the recipe."""
        kind = distiller(method)
        recipe = self.recipe.model_copy(update=changes)
        width, count = int(self.store.embedding.shape[2]), len(self.images.split("train").labels)
        setting = Setting(teacher_width=width, image_count=count)

        def task(fresh: nn.Module) -> Distiller:
            return kind(fresh, setting, criterion=make_criterion(recipe))

        taught_by = (self.store, len(self.store.embedding)) if kind.needs else None
        return student(options, self.images, self.images.train(labelled), recipe, task, taught_by, seed)


def missing(file: Path, keys: Sequence[str], cells: Iterable[tuple[object, ...]]) -> list[tuple[Any, ...]]:
    """Those of `cells` that no row of the table has in these columns."""
    frame = rows(file)
    done = set(frame[[*keys]].itertuples(index=False, name=None)) if len(frame) else set()
    return [one for one in cells if one not in done]


def rows(file: Path) -> pd.DataFrame:
    """A row per student so far."""
    return pd.read_csv(file) if file.is_file() else pd.DataFrame()


def append(file: Path, row: dict[str, object]) -> None:
    """Add a row to a table, so that a command that is stopped goes on where it was."""
    pd.DataFrame([row]).to_csv(file, mode="a", header=not file.is_file(), index=False, float_format="%.4f")
    print(row, flush=True)


def over_seeds(values: pd.Series) -> str:
    """Mean and standard deviation as far as there are seeds: a study that is not finished has a page, too."""
    return mean_and_deviation(values) if len(values) > 1 else "".join(f"{value:.2f}" for value in values)


def gain(by_method: pd.DataFrame, method: str, other: str) -> list[str]:
    """What a method gains over another, paired by seed: the mean in bold, and its 95 % interval.

    Args:
        by_method: a row per seed, a column per method.
    """
    if not {method, other} <= {*by_method}:
        return ["", ""]
    difference = (by_method[method] - by_method[other]).dropna()
    if difference.empty:
        return ["", ""]
    span = interval(difference)
    return [f"**{span.mean:+.2f}**", bounds(span)]
