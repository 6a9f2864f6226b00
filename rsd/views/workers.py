"""Items that other processes prepare ahead of time, in the same order and with the same content."""

import gc
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from rsd.machine.errors import UserError

Item = TypeVar("Item")

# The user chose how many; PyTorch would warn in every process of every stage that has more of them than cores.
warnings.filterwarnings("ignore", message="This DataLoader will create")
# A worker is forked. What is garbage by then, such as a session of ONNX Runtime, must not be collected in it: that
# would wait for ever for threads that only the first process has.
os.register_at_fork(after_in_child=gc.freeze)


def in_order(dataset: Dataset[Item], numbers: range, *, workers: int = 0) -> Iterator[Item]:
    """`dataset[number]` for each number, prepared ahead by `workers` processes; a UserError of any comes through."""
    if not workers:
        return (dataset[number] for number in numbers)
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws a seed, which must not come from the stream that dropout uses
    )
    return _raised(iter(loader))


class _ErrorsAsItems(Dataset[Item | UserError], Generic[Item]):
    """Returns a `UserError` as an item: the loader would hide a raised one in its worker's traceback."""

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


def _unchanged(item: Any) -> Any:
    return item
