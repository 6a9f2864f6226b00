"""Which images make up which batch: a pure function of the seed and the epoch."""

import numpy as np

from rsd.errors import UserError


def batch_count(images: int, batch_size: int) -> int:
    """Full batches per epoch; the rest is dropped, so that a correlation always sees a whole batch.

    Raises:
        UserError: there are fewer images than one batch.
    """
    if images < batch_size:
        raise UserError(
            f"expected at least one batch of {batch_size} training images, found {images}; "
            "lower recipe.batch_size or give more images"
        )
    return images // batch_size


def epoch_batches(images: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Indices of an epoch's batches, int64 `[batches, batch_size]`, shuffled by (seed, epoch)."""
    order = np.random.default_rng([seed, epoch]).permutation(images)
    count = batch_count(images, batch_size)
    return order[: count * batch_size].reshape(count, batch_size)
