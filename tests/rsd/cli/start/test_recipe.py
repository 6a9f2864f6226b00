"""Recipes that fit a number of images."""

import pytest

from rsd.cli.start.recipe import LEAST_EPOCHS, MOST_EPOCHS, fitting_recipe, recipe_text
from rsd.machine.yaml_file import read_yaml
from rsd.training.recipe import Recipe


@pytest.mark.parametrize("images", [6, 20, 100, 1_000, 100_000])
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_recipe_has_steps_enough_and_no_more(images, pretrained):
    recipe = fitting_recipe(images, pretrained=pretrained, validation=100)
    assert recipe.batch_size <= images
    steps = recipe.epochs * (images // recipe.batch_size)
    assert LEAST_EPOCHS <= recipe.epochs <= MOST_EPOCHS
    assert steps >= (500 if pretrained else 1_000) or recipe.epochs == MOST_EPOCHS
    assert steps < 1_600 or recipe.epochs == LEAST_EPOCHS


def test_few_validation_images_choose_no_epoch():
    assert fitting_recipe(1_000, pretrained=False, validation=49).select == "last"
    assert fitting_recipe(1_000, pretrained=False, validation=50).select == "best"


def test_a_recipes_text_is_the_recipe(tmp_path):
    recipe = fitting_recipe(1_000, pretrained=True, validation=10)
    (tmp_path / "mine.yaml").write_text(recipe_text(recipe, "Mine."))
    assert Recipe(**read_yaml(tmp_path / "mine.yaml")) == recipe
