"""Work ahead in other processes: what they make comes in the same order, and is the same."""

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from rsd.machine.errors import UserError

Item = TypeVar("Item")


def in_order(dataset: Dataset[Item], numbers: range, *, workers: int = 0) -> Iterator[Item]:
    """`dataset[number]` for each of the numbers; `workers` other processes make them ahead of time.

    Raises:
        UserError: as `dataset` does, whoever makes it.
    """
    if not workers:
        return (dataset[number] for number in numbers)
    loader = DataLoader(
        _Told(dataset),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws a seed: not from the stream that dropout uses
    )
    return _raised(iter(loader))


class _Told(Dataset[Item | UserError], Generic[Item]):
    """Hands a `UserError` over like any item: the loader would wrap what is raised into its worker's traceback."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> Item | UserError:
        try:
            return self.dataset[number]
        except UserError as error:
            return error


def _raised(items: Iterable[Item | UserError]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, UserError):
            raise item
        yield item


def _as_it_is(item: Any) -> Any:
    return item
