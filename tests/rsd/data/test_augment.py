import numpy as np
import pytest

from rsd.data.augment import AugmentOptions, ViewChoice, uniform, views

ALL = AugmentOptions(shift=2, flip=True, erase=0.5)
IMAGES = np.random.default_rng(0).integers(1, 256, (40, 12, 10, 3), dtype=np.uint8)


def test_a_view_depends_on_its_image_only_never_on_the_batch_around_it():
    whole = views(IMAGES, np.arange(40), ALL, seed=3, view=5)
    order = np.random.default_rng(1).permutation(40)
    parts = [views(IMAGES, part, ALL, seed=3, view=5) for part in np.array_split(order, 7)]
    assert np.array_equal(np.concatenate(parts), whole[order])


@pytest.mark.parametrize("change", [{"seed": 4, "view": 5}, {"seed": 3, "view": 6}])
def test_another_seed_or_view_number_is_another_view(change):
    index = np.arange(40)
    assert not np.array_equal(views(IMAGES, index, ALL, seed=3, view=5), views(IMAGES, index, ALL, **change))


def test_no_augmentation_serves_the_image_itself():
    assert np.array_equal(views(IMAGES, np.array([7, 3]), AugmentOptions(), seed=0, view=0), IMAGES[[7, 3]])


def test_a_shift_moves_pixels_by_at_most_its_size_and_brings_in_black():
    image = IMAGES[:1]
    padded = np.pad(image[0], ((2, 2), (2, 2), (0, 0)))
    crops = {padded[y : y + 12, x : x + 10].tobytes() for y in range(5) for x in range(5)}
    seen = {views(image, np.array([0]), AugmentOptions(shift=2), seed=0, view=v).tobytes() for v in range(400)}
    assert seen == crops  # every one of the 25 shifts occurs, and nothing else


def test_a_flip_mirrors_about_half_of_the_views():
    flipped = [
        np.array_equal(views(IMAGES, np.array([0]), AugmentOptions(flip=True), seed=0, view=v)[0], IMAGES[0, :, ::-1])
        for v in range(400)
    ]
    assert 160 < sum(flipped) < 240


def test_erasing_blackens_one_rectangle_in_the_chosen_share_of_views():
    erased = views(IMAGES, np.zeros(400, int) + 1, AugmentOptions(erase=1.0), seed=0, view=0)
    same_index = (erased == erased[0]).all()
    assert same_index  # a pure function of the index
    batch = views(np.repeat(IMAGES[:1], 400, 0), np.arange(400), AugmentOptions(erase=0.25), seed=0, view=0)
    black = (batch == 0).all(axis=3)
    share = black.any(axis=(1, 2)).mean()
    assert 0.18 < share < 0.32
    for mask in black[black.any(axis=(1, 2))]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert rows <= 7
        assert columns <= 6


def test_draws_are_uniform_and_independent_over_images_views_and_seeds():
    draws = np.stack([uniform(seed, np.arange(500), view) for seed in range(4) for view in range(5)])
    histogram = np.histogram(draws, bins=20, range=(0, 1))[0] / draws.size
    assert np.abs(histogram - 0.05).max() < 0.003
    flat = draws.reshape(-1, draws.shape[-1])
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(correlation).max() < 0.05
    neighbours = np.corrcoef(draws[:, :-1, 0].ravel(), draws[:, 1:, 0].ravel())[0, 1]
    assert abs(neighbours) < 0.05
    assert len(np.unique(draws)) == draws.size


def test_view_numbers_cycle_through_the_stored_ones_or_never_repeat():
    assert [ViewChoice(0, cycle=3).number(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [ViewChoice(0).number(epoch) for epoch in range(4)] == [0, 1, 2, 3]
