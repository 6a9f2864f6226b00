import numpy as np
import pytest

from rsd.data.batches import batch_count, epoch_batches
from rsd.errors import UserError


def test_an_epoch_sees_each_image_at_most_once_in_full_batches():
    batches = epoch_batches(103, 10, seed=1, epoch=2)
    assert batches.shape == (10, 10)
    assert len(np.unique(batches)) == 100


def test_the_order_is_a_function_of_seed_and_epoch():
    first = epoch_batches(50, 10, seed=1, epoch=2)
    assert np.array_equal(first, epoch_batches(50, 10, seed=1, epoch=2))
    assert not np.array_equal(first, epoch_batches(50, 10, seed=1, epoch=3))
    assert not np.array_equal(first, epoch_batches(50, 10, seed=2, epoch=2))


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(UserError, match="batch of 10 training images, found 9"):
        batch_count(9, 10)
