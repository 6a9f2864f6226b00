"""One thread: tests run beside other work, and bits depend on the count."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

gc.disable()  # until the tests are imported: see `pytest_collection_finish`


def pytest_collection_finish() -> None:
    """What was imported is never garbage; to look through it again and again took a fifth of the time of the tests."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
