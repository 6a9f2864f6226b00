import random

import numpy as np
import pytest
import torch

from rsd.sources.images import ArrayImages
from rsd.views.augment import AugmentOptions, ViewChoice, views
from rsd.views.crop import CropOptions
from rsd.views.draws import kept, seed_all, uniform

ALL = AugmentOptions(shift=2, flip=True, erase=0.5)
STRONG = AugmentOptions(crop=CropOptions(), flip=True, randaugment="rand-m9-mstd0.5-inc1", color_jitter=0.4, erase=0.5)
IMAGES = np.random.default_rng(0).integers(1, 256, (40, 12, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", [ALL, STRONG], ids=["arrays", "strong"])
def test_views_do_not_depend_on_their_batch(options):
    whole = views(IMAGES, np.arange(40), options, seed=3, view=5)
    order = np.random.default_rng(1).permutation(40)
    parts = [views(IMAGES, part, options, seed=3, view=5) for part in np.array_split(order, 7)]
    assert np.array_equal(np.concatenate(parts), whole[order])


@pytest.mark.parametrize("change", [{"seed": 4, "view": 5}, {"seed": 3, "view": 6}])
def test_another_seed_or_view_number_is_another_view(change):
    index = np.arange(40)
    assert not np.array_equal(views(IMAGES, index, ALL, seed=3, view=5), views(IMAGES, index, ALL, **change))


def test_no_augmentation_serves_the_image_itself():
    assert np.array_equal(views(IMAGES, np.array([7, 3]), AugmentOptions(), seed=0, view=0), IMAGES[[7, 3]])


def test_a_shift_stays_within_its_limit():
    image = IMAGES[:1]
    padded = np.pad(image[0], ((2, 2), (2, 2), (0, 0)))
    crops = {padded[y : y + 12, x : x + 10].tobytes() for y in range(5) for x in range(5)}
    shifted = {views(image, np.array([0]), AugmentOptions(shift=2), seed=0, view=v).tobytes() for v in range(400)}
    assert shifted == crops  # every one of the 25 shifts occurs, and nothing else


def test_a_shift_may_be_larger_than_the_image():
    served = views(IMAGES, np.arange(40), AugmentOptions(shift=30), seed=0, view=0)
    assert served.shape == IMAGES.shape
    assert (served == 0).all(axis=(1, 2, 3)).any()


def test_a_flip_mirrors_about_half_of_the_views():
    flipped = [
        np.array_equal(views(IMAGES, np.array([0]), AugmentOptions(flip=True), seed=0, view=v)[0], IMAGES[0, :, ::-1])
        for v in range(400)
    ]
    assert 160 < sum(flipped) < 240


def test_erasing_fills_a_rectangle_as_published():
    black = np.zeros((400, 24, 20, 3), np.uint8)
    changed = np.any(views(black, np.arange(400), AugmentOptions(erase=0.25), seed=0, view=0), axis=3)
    assert 0.18 < changed.any(axis=(1, 2)).mean() < 0.32
    for mask in changed[changed.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.mean() > 0.9  # noise is black now and then
        assert 0.01 < inside.size / mask.size < 0.4


def test_resizing_keeps_the_mean():
    smooth = np.tile(np.arange(0, 200, 5, dtype=np.uint8)[None, :, None, None], (3, 1, 40, 1))
    served = ArrayImages(smooth, 20)
    assert served.shape == (3, 20, 20, 1)
    assert served[:2].shape == (2, 20, 20, 1)
    assert abs(served[np.arange(3)].mean() - smooth.mean()) < 1


def test_randaugment_leaves_the_global_generators_as_they_were():
    options = AugmentOptions(randaugment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
    state = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    views(IMAGES, np.arange(4), options, seed=0, view=0)
    assert random.getstate() == state[0]
    assert str(np.random.get_state()) == state[1]
    assert torch.equal(torch.get_rng_state(), state[2])


def test_seeding_forgets_all_earlier_draws():
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        random.gauss(), np.random.normal(), torch.randn(1)  # each keeps a number for the next call
        with kept():
            seed_all(5)
            drawn.append((random.gauss(), np.random.normal(), torch.randn(1).item()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_and_jitter_change_most_images(channels):
    options = AugmentOptions(randaugment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
    images = IMAGES[..., :channels]
    changed = views(images, np.arange(40), options, seed=0, view=0)
    assert changed.shape == images.shape
    assert (changed != images).any(axis=(1, 2, 3)).mean() > 0.8


def test_randaugment_at_its_strongest_never_fails():
    options = AugmentOptions(randaugment="rand-m10-n4-inc1")
    for view in range(20):
        views(IMAGES, np.arange(40), options, seed=0, view=view)


def test_no_view_number_comes_back_as_another_one():
    """The histogram of a corner pixel over views is that of independent augmentation, not of a few that repeat."""
    image = np.arange(144, dtype=np.uint8).reshape(1, 12, 12, 1)
    corners = [views(image, np.array([0]), AugmentOptions(shift=5), seed=0, view=v)[0, 6, 6, 0] for v in range(2420)]
    counts = np.bincount(np.array(corners), minlength=144)
    occurring = counts[counts > 0]
    assert len(occurring) == 121  # 11 x 11 shifts
    chi_square = ((occurring - 20) ** 2 / 20).sum()
    assert 80 < chi_square < 170  # 120 degrees of freedom: mean 120, standard deviation 15.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shift": 1, "crop": {}}, "expected crop or shift"),
        ({"randaugment": "wild-m9"}, "expected RandAugment as timm writes it"),
    ],
)
def test_what_cannot_be_done_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        AugmentOptions(**options)


def test_draws_are_uniform_and_independent():
    draws = np.stack([uniform(seed, np.arange(500), view, range(8)) for seed in range(4) for view in range(5)])
    histogram = np.histogram(draws, bins=20, range=(0, 1))[0] / draws.size
    assert np.abs(histogram - 0.05).max() < 0.003
    flat = draws.reshape(-1, draws.shape[-1])
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(correlation).max() < 0.05
    neighbours = np.corrcoef(draws[:, :-1, 0].ravel(), draws[:, 1:, 0].ravel())[0, 1]
    assert abs(neighbours) < 0.05
    assert len(np.unique(draws)) == draws.size


def test_each_draw_is_independent_of_others():
    index, view = np.arange(5), np.array([3, 0, 9, 9, 1])
    every = uniform(2, index, view, range(50))
    assert np.array_equal(uniform(2, index, view, range(20, 24)), every[:, 20:24])
    assert np.array_equal(uniform(2, index[3:4], 9, range(50)), every[3:4])


def test_view_numbers_cycle_or_never_repeat():
    assert [ViewChoice(0, cycle=3).number(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [ViewChoice(0).number(epoch) for epoch in range(4)] == [0, 1, 2, 3]
