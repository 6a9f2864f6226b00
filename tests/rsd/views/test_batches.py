from functools import partial

import numpy as np
import pytest
import torch

from rsd.machine.errors import UserError
from rsd.sources.images import LabelledImages
from rsd.views.augment import AugmentOptions, ViewChoice
from rsd.views.batches import batch_count, batches, epoch_plan, partly_labelled_plan, portions, store_plan
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
    chosen = store_plan(4, np.zeros(23, int), 5, augment, seed=3)
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
    for batch in batches(
        images, lambda _: store_plan(1, images.labels, 16, STRONG, seed=7), 3, STRONG, seed=7, numbers=range(3)
    ):
        served |= {int(image): pixels for image, pixels in zip(batch.images, batch.raw, strict=True)}
    for batch in batches(
        images, lambda _: plan(40, 8, STRONG, epoch=3, choice=choice), 5, STRONG, seed=7, numbers=range(5)
    ):
        assert (batch.views == 1).all()
        for image, pixels in zip(batch.images, batch.raw, strict=True):
            assert torch.equal(served[int(image)], pixels)


LABELS = np.where(np.arange(100) % 7 == 0, np.arange(100) % 3, -1)
"""15 of 100 images have a label."""


def partly(epoch, augment=PLAIN, *, parts=2, share=0.5, choice=FRESH, steps=3, batch_size=24):
    shared = portions(LABELS, size=batch_size // parts, parts=parts, labelled_share=share, repeats=augment.repeats)
    plan = partly_labelled_plan(epoch, LABELS, shared, steps, augment, seed=1, view_choice=choice)
    return shared, np.stack(plan.images), np.stack(plan.views)


@pytest.mark.parametrize("augment", [PLAIN, MIXED, AugmentOptions(repeats=2, mixup=0.3)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_part_holds_its_labelled_images_first(augment, parts):
    for epoch in range(4):
        shared, images, views = partly(epoch, augment, parts=parts)
        assert images.shape == views.shape == (3, 24)
        assert (shared.labelled, shared.unlabelled) == (12 // parts, 12 // parts)
        known = (LABELS[images] >= 0).reshape(3, parts, -1)
        assert known[..., : shared.labelled].all()
        assert not known[..., shared.labelled :].any()


@pytest.mark.parametrize("augment", [PLAIN, MIXED])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_unlabelled_image_comes_twice_in_a_batch(augment, share):
    for epoch in range(30):
        for batch in partly(epoch, augment, share=share)[1]:
            without = batch[LABELS[batch] < 0]
            assert len(without)
            assert len(np.unique(without)) == len(without)


@pytest.mark.parametrize("augment", [PLAIN, MIXED, AugmentOptions(repeats=3)])
def test_labelled_images_come_equally_often_in_new_views(augment):
    plans = [partly(epoch, augment) for epoch in range(20)]
    images, views = (np.concatenate([plan[n].ravel() for plan in plans]) for n in (1, 2))
    known = LABELS[images] >= 0
    shown = np.stack([images[known], views[known]], axis=1)
    assert len(np.unique(shown, axis=0)) == len(shown)  # every repeat is another view
    counts = np.unique(shown[:, 0], return_counts=True)[1]
    assert len(counts) == 15
    assert counts.max() - counts.min() <= augment.repeats
    without = np.unique(images[~known], return_counts=True)[1]
    assert len(without) == 85
    assert without.max() <= 2 * without.mean()


def test_partly_labelled_views_cycle_through_the_store():
    views = np.concatenate([partly(epoch, choice=ViewChoice(7, 3))[2].ravel() for epoch in range(20)])
    assert set(views) == {0, 1, 2}


def test_epochs_continue_each_others_passes():
    whole = partly(0, steps=6)[1]
    halves = [partly(epoch, steps=3)[1] for epoch in (0, 1)]
    assert np.array_equal(whole, np.concatenate(halves))


@pytest.mark.parametrize(
    ("without", "parts", "repeats", "expected"), [(500, 2, 1, 16), (20, 2, 1, 10), (20, 2, 2, 16), (0, 2, 1, 0)]
)
def test_few_unlabelled_images_leave_room_for_labelled_ones(without, parts, repeats, expected):
    labels = np.repeat([0, -1], [100, without])
    shared = portions(labels, size=32, parts=parts, labelled_share=0.5, repeats=repeats)
    assert (shared.labelled, shared.unlabelled) == (32 - expected, expected)
    assert shared.batch_size == 64


def test_a_store_of_partly_labelled_images_has_all():
    images = LabelledImages(labelled(100).images, LABELS, list("abc"))
    stored = store_plan(1, LABELS, 16, MIXED, seed=7)
    for batch in batches(images, lambda _: stored, 7, MIXED, seed=7, numbers=range(7)):
        sums = batch.target.sum(dim=1)
        assert torch.allclose(sums, torch.from_numpy(np.where(LABELS[batch.images] < 0, 0.0, 1.0)).float())
    assert sorted(np.concatenate(stored.images)) == list(range(100))
