"""One thread: tests run beside other work, and bits depend on the count."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
