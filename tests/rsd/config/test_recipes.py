"""The published recipes, each from its first to its last epoch; only their epochs and batches are fewer and smaller."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rsd.machine.yaml_file import read_yaml
from rsd.methods.base import Setting
from rsd.methods.rsd import RSDDistiller
from rsd.models.make import ModelOptions, create
from rsd.models.outputs import Outputs
from rsd.models.pixels import PixelNormalize
from rsd.sources.images import LabelledImages
from rsd.training.loop import Data, Session, train
from rsd.training.recipe import Recipe, make_criterion
from rsd.views.augment import ViewChoice

CONF = Path(__file__).parents[3] / "conf" / "recipe"
SIDE, CLASSES, BATCH = 32, 4, 8
RESNET = ModelOptions(name="resnet18", args={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]})
VIT = ModelOptions(
    name="vit_tiny_patch16_224",
    args={"img_size": SIDE, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
)
STUDENTS = {
    "cifar_cnn": RESNET,
    "cifar_vit_mlp": VIT,
    "imagenet_cnn": RESNET,
    "imagenet_vit_mlp": VIT,
    "imagenet_stronger": RESNET,
}


def images(count, seed):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    pixels = generator.integers(0, 120, (count, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[..., 0] += (40 * labels[:, None, None]).astype(np.uint8)
    return LabelledImages(pixels, labels, [str(name) for name in range(CLASSES)])


def teacher(raw, index, view):
    flat = raw.float().mean(dim=(1, 2)) / 255
    return Outputs(flat @ torch.linspace(-1, 1, 3 * 12).reshape(3, 12).sin(), flat @ torch.ones(3, CLASSES))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_a_published_recipe_trains_to_its_end(name):
    stated = read_yaml(CONF / f"{name}.yaml")
    epochs = stated["warmup_epochs"] + 1
    recipe = Recipe.model_validate(stated | {"epochs": epochs, "batch_size": BATCH})
    student = create(STUDENTS[name], classes=CLASSES, image_shape=(SIDE, SIDE, 3))
    before = {key: value.clone() for key, value in student.state_dict().items()}
    task = RSDDistiller(student, Setting(teacher_width=12), criterion=make_criterion(recipe))
    data = Data(images(2 * BATCH + 1, 0), images(10, 1), PixelNormalize([0.4] * 3, [0.25] * 3))
    trained = train(task, data, recipe, Session(0, ViewChoice(0), teacher, name=name))
    assert (len(trained.history), trained.steps) == (epochs, 2 * epochs)
    assert all(np.isfinite([*row.values()]).all() for row in trained.history)
    warming = [row["learning_rate"] for row in trained.history[: recipe.warmup_epochs - 1]]
    assert warming == sorted(warming)
    assert recipe.warmup_learning_rate < warming[0] < recipe.learning_rate
    assert trained.student.keys() == before.keys()
    last = student.state_dict()
    assert not [key for key, value in before.items() if torch.equal(value, last[key])]  # all of it is trained
    if recipe.ema_decay:  # what is kept is the slow average, not the student of the last step
        assert any(not torch.equal(value, trained.student[key]) for key, value in last.items())
