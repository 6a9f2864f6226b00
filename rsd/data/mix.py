"""Mixup and CutMix under the rule of views: who is mixed with whom, and how, is a pure function too."""

from functools import lru_cache

import numpy as np
from scipy.special import betaincinv

from rsd.data.augment import AugmentOptions, views
from rsd.data.draws import uniform
from rsd.data.images import Images

_KIND, _SHARE, _ROW, _COLUMN = range(64, 68)  # the numbers of a pair's draws


@lru_cache(maxsize=8)
def partners(images: int, *, seed: int, pairing: int) -> np.ndarray:
    """Each image's partner, int64 `[N]`: a random matching, mutual; of an odd number one is left to itself."""
    order = np.random.default_rng([seed, pairing, 1]).permutation(images)
    partner = np.arange(images)
    first, second = order[: images // 2 * 2].reshape(-1, 2).T
    partner[first], partner[second] = second, first
    partner.setflags(write=False)  # it is cached
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
    """Views of `images[index]`, mixed with their partners' if the options say so.

    Partners that are asked for together are decoded once. A row depends on its own index and view only.

    Args:
        labels: int64 `[N]`, of the whole split.
        view: view numbers, int64 `[B]`.

    Returns:
        uint8 `[B, H, W, C]`, and class indices int64 `[B]`, or probabilities float32 `[B, classes]` if mixed.
    """
    if not options.mixes:
        return views(images, index, options, seed=seed, view=view), labels[index]
    pairings = view // options.repeats  # views of one image in one epoch share their partner
    other = np.array(
        [partners(len(images), seed=seed, pairing=int(p))[i] for i, p in zip(index, pairings, strict=True)]
    )
    wanted = np.unique(np.stack([np.concatenate([index, other]), np.tile(view, 2)], axis=1), axis=0)
    pixels = views(images, wanted[:, 0], options, seed=seed, view=wanted[:, 1])
    row = {(i, v): number for number, (i, v) in enumerate(wanted.tolist())}
    own = pixels[[row[key] for key in zip(index.tolist(), view.tolist(), strict=True)]]
    theirs = pixels[[row[key] for key in zip(other.tolist(), view.tolist(), strict=True)]]

    draw = uniform(seed, np.minimum(index, other), view, _COLUMN + 1)
    cut = draw[:, _KIND] < (0.5 if options.mixup and options.cutmix else float(bool(options.cutmix)))
    alpha = np.where(cut, options.cutmix or 1.0, options.mixup or 1.0)
    share = betaincinv(alpha, alpha, draw[:, _SHARE])  # quantile of Beta(alpha, alpha): the image's own share
    inside = _boxes(share, draw[:, _ROW], draw[:, _COLUMN], pixels.shape[1:3])
    share = np.where(cut, 1 - inside.mean(axis=(1, 2)), share)
    share[index == other] = 1.0

    weight = share[:, None, None, None].astype(np.float32)
    blended = np.rint(weight * own + (1 - weight) * theirs).astype(np.uint8)
    pasted = np.where(inside[..., None], theirs, own)
    target = np.zeros((len(index), classes), np.float32)
    rows = np.arange(len(index))
    np.add.at(target, (rows, labels[index]), share.astype(np.float32))
    np.add.at(target, (rows, labels[other]), 1 - share.astype(np.float32))
    return np.where(cut[:, None, None, None], pasted, blended), target


def _boxes(share: np.ndarray, row: np.ndarray, column: np.ndarray, side: tuple[int, ...]) -> np.ndarray:
    """CutMix's rectangles as masks `[B, H, W]`: sides of sqrt(1 - share), cut off at the image's edge."""
    spans = []
    for centre, length in ((row, side[0]), (column, side[1])):
        half = np.sqrt(1 - share) * length / 2
        at = np.arange(length) + 0.5
        spans.append(np.abs(at - centre[:, None] * length) < half[:, None])
    return spans[0][:, :, None] & spans[1][:, None, :]
