import gc
import os
import subprocess
import sys

import pytest
from torch.utils.data import Dataset

from rsd.machine.errors import UserError
from rsd.views.workers import in_order


class Images(Dataset):
    """The third of them is damaged."""

    def __getitem__(self, number):
        if number == 2:
            raise UserError("expected a usable image in 2.png, found: empty")
        return number


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_report_a_bad_image_alike(workers):
    assert list(in_order(Images(), range(2), workers=workers)) == [0, 1]
    with pytest.raises(UserError, match="^expected a usable image in 2.png, found: empty$"):
        list(in_order(Images(), range(4), workers=workers))


class Collects(Dataset):
    def __getitem__(self, number):
        gc.collect()
        return number


class Garbage:
    """Part of a cycle; its end leaves a file with the number of the process."""

    def __init__(self, folder):
        self.folder, self.itself = folder, self

    def __del__(self):
        (self.folder / str(os.getpid())).touch()


def test_a_worker_leaves_its_parents_garbage_alone(tmp_path):
    gc.disable()
    try:
        Garbage(tmp_path)
        assert list(in_order(Collects(), range(2), workers=1)) == [0, 1]
    finally:
        gc.enable()
    gc.collect()
    assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]


def test_more_workers_than_cores_warn_nobody():
    program = (
        "import os; from rsd.views.workers import in_order; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    )
    command = [sys.executable, "-c", f"{program}; print(*in_order(range(3), range(3), workers=2))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0 1 2\n", "")
