import numpy as np
import pytest

from rsd.views import mix
from rsd.views.augment import AugmentOptions
from rsd.views.mix import mixed_views, partners

IMAGES = np.random.default_rng(0).integers(0, 256, (41, 16, 12, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 7, 41)
EVERY = np.arange(41)


def mixed(options, index=EVERY, view=3, seed=5):
    return mixed_views(IMAGES, LABELS, 7, index, options, seed=seed, view=np.full(len(index), view))


def test_partners_are_mutual():
    partner = partners(41, seed=5, pairing=3)
    assert np.array_equal(partner[partner], EVERY)
    assert (partner == EVERY).sum() == 1
    assert not np.array_equal(partner, partners(41, seed=5, pairing=4))


@pytest.mark.parametrize(
    "options", [AugmentOptions(mixup=0.8), AugmentOptions(cutmix=1.0), AugmentOptions(mixup=0.8, cutmix=1.0, flip=True)]
)
def test_mixed_views_do_not_depend_on_their_batch(options):
    pixels, target = mixed(options)
    order = np.random.default_rng(2).permutation(41)
    for part in np.array_split(order, 6):
        some, probabilities = mixed(options, part)
        assert np.array_equal(some, pixels[part])
        assert np.array_equal(probabilities, target[part])


def test_without_mixing_labels_stay_class_indices():
    pixels, target = mixed(AugmentOptions())
    assert np.array_equal(pixels, IMAGES)
    assert np.array_equal(target, LABELS)


def test_mixup_blends_pixels_as_it_blends_labels():
    pixels, target = mixed(AugmentOptions(mixup=0.8))
    partner = partners(41, seed=5, pairing=3)
    assert np.allclose(target.sum(axis=1), 1, atol=1e-6)
    for image, other in enumerate(partner):
        if LABELS[image] == LABELS[other]:
            continue
        share = target[image, LABELS[image]]
        assert np.isclose(target[image, LABELS[other]], 1 - share, atol=1e-6)
        expected = share * IMAGES[image].astype(float) + (1 - share) * IMAGES[other]
        assert np.abs(pixels[image] - expected).max() <= 0.51
        assert np.isclose(target[other, LABELS[other]], share, atol=1e-6)  # one share for both


def test_cutmix_labels_by_the_pasted_area():
    pixels, target = mixed(AugmentOptions(cutmix=1.0))
    partner = partners(41, seed=5, pairing=3)
    for image, other in enumerate(partner):
        if LABELS[image] == LABELS[other]:
            continue
        pasted = (pixels[image] != IMAGES[image]).any(axis=2)
        assert np.array_equal(pixels[image][pasted], IMAGES[other][pasted])
        assert abs(pasted.mean() - target[image, LABELS[other]]) < 0.02  # equal pixels of both hide now and then


def test_the_image_without_a_partner_is_left_alone():
    alone = int(np.flatnonzero(partners(41, seed=5, pairing=3) == EVERY)[0])
    pixels, target = mixed(AugmentOptions(mixup=0.8))
    assert np.array_equal(pixels[alone], IMAGES[alone])
    assert np.array_equal(target[alone], np.eye(7, dtype=np.float32)[LABELS[alone]])


def test_shares_follow_beta_and_half_are_cut():
    shares, kinds = [], []
    for view in range(60):
        _, target = mixed(AugmentOptions(mixup=0.4), view=view)
        differ = LABELS[partners(41, seed=5, pairing=view)] != LABELS
        shares += list(target[EVERY[differ], LABELS[differ]])
    values = np.array(shares)
    reference = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs((values < np.quantile(reference, quantile)).mean() - quantile) < 0.05
    for view in range(20):
        pixels, _ = mixed(AugmentOptions(mixup=1.0, cutmix=1.0), view=view)
        partner = partners(41, seed=5, pairing=view)
        either = (pixels == IMAGES) | (pixels == IMAGES[partner])
        kinds += list(either.all(axis=(1, 2, 3)))
    assert 0.4 < np.mean(kinds) < 0.6


def test_nothing_is_decoded_twice(monkeypatch):
    requests: list[np.ndarray] = []
    real = mix.views

    def spy(images, index, *rest, **more):
        requests.append(index)
        return real(images, index, *rest, **more)

    monkeypatch.setattr(mix, "views", spy)
    partner = partners(41, seed=5, pairing=3)
    pair = np.array([0, partner[0]])
    mixed(AugmentOptions(mixup=0.8), pair)
    assert sorted(requests[0]) == sorted(pair)
