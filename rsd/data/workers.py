"""Work ahead in other processes: what they make comes in the same order, and is the same."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")


def in_order(dataset: Dataset[Item], numbers: range, *, workers: int = 0) -> Iterator[Item]:
    """`dataset[number]` for each of the numbers; `workers` other processes make them ahead of time."""
    if not workers:
        return (dataset[number] for number in numbers)
    return iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader draws a seed: not from the stream that dropout uses
        )
    )


def _as_it_is(item: Any) -> Any:
    return item
