"""A model must beat the most frequent class by more than luck."""

import numpy as np
import pytest
from scipy.stats import binom

from rsd.models.chance import at_least, too_weak


@pytest.mark.parametrize(("successes", "trials", "chance"), [(0, 9, 0.3), (3, 9, 0.3), (9, 9, 0.5), (5300, 50000, 0.1)])
def test_the_tail_is_the_binomial_one(successes, trials, chance):
    assert at_least(successes, trials, chance) == pytest.approx(binom.sf(successes - 1, trials, chance), rel=1e-6)


def test_one_class_for_all_images_is_too_weak():
    for labels in (np.repeat(np.arange(10), 7), np.zeros(20, int), np.repeat([0, 1], [90, 10])):
        share = 100 * np.bincount(labels).max() / len(labels)
        assert "which the most frequent class alone reaches" in (too_weak(share, labels, None) or "")


def test_the_limit_is_where_luck_ends():
    labels = np.repeat(np.arange(10), 10)
    least = int(binom.isf(0.05, 100, 0.1)) + 1
    assert too_weak(least, labels, None) is None
    assert too_weak(least - 1, labels, None)
    assert too_weak(50, labels, 50.0) is None
    assert too_weak(49.9, labels, 50.0) == "at least 50.00 % top-1, found 49.90 %"
