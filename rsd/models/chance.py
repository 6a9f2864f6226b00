"""Is a model better than one that gives the same class for every image?"""

import math

import numpy as np

SIGNIFICANCE = 0.05


def too_weak(top1: float, labels: np.ndarray, least: float | None) -> str | None:
    """What was expected of a model's accuracy and what was found, in words; None where it is good enough.

    Args:
        top1: in per cent, of the images with these `labels` (int64 `[N]`).
        least: the limit in per cent; None: better than the most frequent class, by a one-sided binomial test.
    """
    if least is not None:
        return f"at least {least:.2f} % top-1, found {top1:.2f} %" if top1 < least else None
    images, most = len(labels), int(np.bincount(labels).max())
    if at_least(round(top1 / 100 * images), images, most / images) < SIGNIFICANCE:
        return None
    return (
        f"a better top-1 than {100 * most / images:.2f} %, which the most frequent class alone reaches (binomial test "
        f"at {SIGNIFICANCE}), found {top1:.2f} % of {images} images"
    )


def at_least(successes: int, trials: int, chance: float) -> float:
    """Probability of at least so many successes; the upper tail of the binomial distribution."""
    if chance >= 1 or successes <= 0:
        return 1.0
    factorial = math.lgamma
    return math.fsum(
        math.exp(
            factorial(trials + 1)
            - factorial(k + 1)
            - factorial(trials - k + 1)
            + k * math.log(chance)
            + (trials - k) * math.log1p(-chance)
        )
        for k in range(successes, trials + 1)
    )
