"""Mixup and CutMix: the partner of an image and their shares are a pure function of seed, image and view."""

from functools import lru_cache

import numpy as np

from rsd.sources.images import Images
from rsd.views.augment import AugmentOptions, views
from rsd.views.draws import beta, uniform

_DRAWN = range(64, 68)  # the numbers of a pair's draws: kind, share, row, column
_BLENDED = 1 << 17  # bytes that are blended at once; as floats they fit into the processor's cache


@lru_cache(maxsize=8)
def partners(images: int, *, seed: int, pairing: int) -> np.ndarray:
    """Each image's partner, int64 `[N]`: partners are random and mutual; with an odd N one image is its own partner."""
    order = np.random.default_rng([seed, pairing, 1]).permutation(images)
    partner = np.arange(images)
    first, second = order[: images // 2 * 2].reshape(-1, 2).T
    partner[first], partner[second] = second, first
    partner.setflags(write=False)  # it is cached
    return partner


def partners_of(index: np.ndarray, labels: np.ndarray, *, seed: int, pairing: int) -> np.ndarray:
    """The partners of images, int64 `[B]`, labelled where the image is; `labels` `[N]` of the split, -1 for none."""
    labelled = labels >= 0
    if labelled.all():
        return partners(len(labels), seed=seed, pairing=pairing)[index]
    partner = np.empty_like(index)
    for group in (labelled, ~labelled):
        members, rows = np.flatnonzero(group), group[index]
        places = np.searchsorted(members, index[rows])
        partner[rows] = members[partners(len(members), seed=seed, pairing=pairing)[places]]
    return partner


def mixed_views(
    images: Images,
    labels: np.ndarray,
    classes: int,
    index: np.ndarray,
    options: AugmentOptions,
    *,
    seed: int,
    view: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Views of `images[index]`, mixed with their partners' views if the options mix.

    Partners in the same batch are decoded once. A row depends on its own index and view only.

    Args:
        labels: of the whole split, int64 `[N]`; -1 where there is none.
        view: view numbers, int64 `[B]`.

    Returns:
        uint8 `[B, H, W, C]`, and class indices int64 `[B]`, or probabilities float32 `[B, classes]` if mixed: zeros for
        an image without a label.
    """
    if not options.mixes:
        return views(images, index, options, seed=seed, view=view), labels[index]
    pairings = view // options.repeats  # views of one image in one epoch share their partner
    other = np.empty_like(index)
    for pairing in np.unique(pairings).tolist():
        rows = pairings == pairing
        other[rows] = partners_of(index[rows], labels, seed=seed, pairing=pairing)
    most = view.max() + 1
    pairs, places = np.unique(np.concatenate([index, other]) * most + np.tile(view, 2), return_inverse=True)
    pixels = views(images, pairs // most, options, seed=seed, view=pairs % most)
    own, theirs = np.split(places, 2)

    kind, quantile, row, column = uniform(seed, np.minimum(index, other), view, _DRAWN).T
    cut = kind < (0.5 if options.mixup and options.cutmix else float(bool(options.cutmix)))
    alphas = options.cutmix or 1.0, options.mixup or 1.0
    share = np.where(cut, *(beta(alpha, quantile) for alpha in alphas))  # the image's own
    high, wide = (_spans(share, at, side) for at, side in zip((row, column), pixels.shape[1:3], strict=True))
    area = high.sum(axis=1) * wide.sum(axis=1) / (high.shape[1] * wide.shape[1])
    share = np.where(index == other, 1.0, np.where(cut, 1 - area, share)).astype(np.float32)

    mixed = pixels[own]
    for number in np.flatnonzero(cut):
        inside = np.ix_(high[number], wide[number])
        mixed[number][inside] = pixels[theirs[number]][inside]
    blended = np.flatnonzero(~cut)
    at_once = max(_BLENDED // pixels[0].size, 1)
    for some in np.split(blended, range(at_once, len(blended), at_once)):
        weight = share[some, None, None, None]
        mixed[some] = np.rint(weight * pixels[own[some]] + (1 - weight) * pixels[theirs[some]])
    target = np.zeros((len(index), classes), np.float32)
    rows = np.flatnonzero(labels[index] >= 0)  # the partners have a label where the images have one
    np.add.at(target, (rows, labels[index[rows]]), share[rows])
    np.add.at(target, (rows, labels[other[rows]]), 1 - share[rows])
    return mixed, target


def _spans(share: np.ndarray, centre: np.ndarray, side: int) -> np.ndarray:
    """Rows, or columns, of CutMix's rectangles, bool `[B, side]`: sqrt(1 - share) of the side, within the image."""
    half = np.sqrt(1 - share) * side / 2
    return np.abs(np.arange(side) + 0.5 - centre[:, None] * side) < half[:, None]
