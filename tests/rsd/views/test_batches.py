from functools import partial

import numpy as np
import pytest
import torch

from rsd.machine.errors import UserError
from rsd.sources.images import LabelledImages
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.batches import batch_count, batches, epoch_plan, store_plan
from rsd.views.crop import CropOptions
from rsd.views.mix import partners

PLAIN, MIXED = AugmentOptions(shift=1), AugmentOptions(mixup=0.8, cutmix=1.0, flip=True)
FRESH = ViewChoice(7)
STRONG = AugmentOptions(crop=CropOptions(), flip=True, randaugment="rand-m9-mstd0.5-inc1", erase=0.25, mixup=0.8)


def plan(images, batch_size, augment=PLAIN, *, seed=1, epoch=2, choice=FRESH):
    return epoch_plan(epoch, images, batch_size, augment, seed=seed, view_choice=choice)


def labelled(count):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return LabelledImages(images, generator.integers(0, 5, count), list("abcde"))


@pytest.mark.parametrize("augment", [PLAIN, MIXED])
@pytest.mark.parametrize("images", [103, 104])
def test_an_epoch_shows_no_image_twice(images, augment):
    chosen = np.stack(plan(images, 10, augment).images)
    assert chosen.shape == (10, 10)
    assert len(np.unique(chosen)) == 100


def test_seed_and_epoch_decide_the_order():
    first = np.stack(plan(50, 10).images)
    assert np.array_equal(first, np.stack(plan(50, 10).images))
    assert not np.array_equal(first, np.stack(plan(50, 10, epoch=3).images))
    assert not np.array_equal(first, np.stack(plan(50, 10, seed=2).images))


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(UserError, match="batch of 10 training images, found 9"):
        batch_count(9, 10)


def test_view_numbers_are_those_of_the_choice():
    for epoch, view in ((2, 2), (4, 1)):
        assert (np.stack(plan(50, 10, epoch=epoch, choice=ViewChoice(7, cycle=3)).views) == view).all()


def test_repeats_show_fewer_images_in_several_views():
    repeated = AugmentOptions(repeats=3, flip=True)
    chosen = plan(90, 30, repeated, epoch=4)
    pairs = np.stack([np.stack(chosen.images).ravel(), np.stack(chosen.views).ravel()], axis=1)
    assert len(np.unique(pairs[:, 0])) == 30
    assert len(np.unique(pairs, axis=0)) == 90
    assert set(pairs[:, 1]) == {12, 13, 14}


@pytest.mark.parametrize("augment", [MIXED, AugmentOptions(mixup=0.1, repeats=3)])
def test_partners_are_in_the_same_batch(augment):
    chosen = plan(60, 12, augment)
    for images, views in zip(chosen.images, chosen.views, strict=True):
        for image, view in zip(images, views, strict=True):
            assert partners(60, seed=7, pairing=int(view) // augment.repeats)[image] in images


@pytest.mark.parametrize("augment", [PLAIN, MIXED])
def test_the_stores_plan_has_every_image_once(augment):
    chosen = store_plan(4, 23, 5, augment, seed=3)
    assert sorted(np.concatenate(chosen.images)) == list(range(23))
    assert [len(part) for part in chosen.images] == [5, 5, 5, 5, 3]
    assert all((part == 4).all() for part in chosen.views)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_a_pixel(workers):
    images = labelled(40)
    chosen = partial(epoch_plan, images=40, batch_size=8, augment=STRONG, seed=1, view_choice=FRESH)
    before = torch.get_rng_state()
    alone = list(batches(images, chosen, 5, STRONG, seed=7, numbers=range(15)))
    shared = list(batches(images, chosen, 5, STRONG, seed=7, workers=workers, numbers=range(7, 15)))
    assert torch.equal(before, torch.get_rng_state())
    assert (len(alone), len(shared)) == (15, 8)
    for one, other in zip(alone[7:], shared, strict=True):
        assert torch.equal(one.raw, other.raw)
        assert torch.equal(one.target, other.target)
        assert np.array_equal(one.images, other.images)


def test_batches_follow_plan_after_plan():
    def chosen(epoch):
        return plan(40, 8, epoch=epoch)

    served = list(batches(labelled(40), chosen, 5, PLAIN, seed=7, numbers=range(3, 12)))
    wanted = [(images, views) for epoch in range(3) for images, views in zip(*chosen(epoch), strict=True)][3:12]
    assert all(
        np.array_equal(batch.images, images) and np.array_equal(batch.views, views)
        for batch, (images, views) in zip(served, wanted, strict=True)
    )


def test_store_and_epoch_serve_the_same_view():
    images, choice = labelled(40), ViewChoice(7, cycle=2)
    served: dict[int, torch.Tensor] = {}
    for batch in batches(images, lambda _: store_plan(1, 40, 16, STRONG, seed=7), 3, STRONG, seed=7, numbers=range(3)):
        served |= {int(image): pixels for image, pixels in zip(batch.images, batch.raw, strict=True)}
    for batch in batches(
        images, lambda _: plan(40, 8, STRONG, epoch=3, choice=choice), 5, STRONG, seed=7, numbers=range(5)
    ):
        assert (batch.views == 1).all()
        for image, pixels in zip(batch.images, batch.raw, strict=True):
            assert torch.equal(served[int(image)], pixels)
