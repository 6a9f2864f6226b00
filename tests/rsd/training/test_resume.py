"""A training killed without warning, at any moment and any number of times, ends with the bits of an undisturbed one.

One process imports PyTorch and forks the trainings that are killed: starting an interpreter for each would take
longer than all of them.
"""

import gc
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rsd.machine import parallel
from rsd.machine.compute import ComputeOptions, set_up
from rsd.machine.launch import is_launcher, launch
from rsd.methods.base import Setting
from rsd.methods.rsd import RSDDistiller
from rsd.training.loop import Session, train
from rsd.training.stepper import Stepper
from rsd.views.augment import ViewChoice
from stages import run as stage
from tests.rsd.training.test_loop import DATA, RECIPE, student, teacher

pytestmark = pytest.mark.xdist_group("resume")

FULL = RECIPE.model_copy(update={"ema_decay": 0.9, "clip_gradient": 1.0, "label_smoothing": 0.1})
STEPS = 4 * 4


def run(folder: Path, *, save_seconds: float, amp: str = "none") -> None:
    """Train to the end and write down everything that must not depend on the disturbances."""
    compute = ComputeOptions.model_validate({"amp": amp})
    state, logs = folder / "checkpoint.pt", folder / "logs"
    session = Session(3, ViewChoice(0, 2), teacher, compute, state, save_seconds=save_seconds, logs=logs, name="t")
    trained = train(RSDDistiller(student(drop=0.2), Setting(teacher_width=6)), DATA, FULL, session)
    if not parallel.leads():
        return
    saved = torch.load(state, weights_only=True)
    torch.save(
        {
            "student": trained.student,
            "scaffold": trained.scaffold,
            "history": trained.history,
            "selected": trained.selected,
            "stepper": saved["stepper"],
        },
        folder / "result.pt",
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_step(number: int) -> None:
    real = Stepper.step

    def step(self, *arguments, **options):
        if options["number"] == number:
            die()
        return real(self, *arguments, **options)

    Stepper.step = step  # type: ignore[method-assign]


def killed_in_write(number: int, *, whole: bool) -> None:
    """In the middle of writing a checkpoint's bytes, or with all of them there, before they get their name."""
    real, count = torch.save, iter(range(1000))

    def save(content, file):
        if next(count) < number:
            return real(content, file)
        real(content, file)
        if whole:
            Path.replace = lambda *_: die()  # type: ignore[assignment]
        else:
            file.truncate(file.tell() // 2)
            file.flush()
            die()

    torch.save = save  # type: ignore[assignment]


def disturb(folder: Path, kills: list, *, amp: str = "none") -> int:
    """Start the training again and again, each time with another way to be killed; how many times it was."""
    folder.mkdir(parents=True)
    killed = 0
    for kill in [*kills, None]:
        gc.freeze()  # what other tests left as garbage may wait in the child for threads that it has not
        child = os.fork()
        gc.unfreeze()
        if not child:
            # torch's random state is that of the parent; a new process's is another one.
            torch.manual_seed(random.getrandbits(32))
            if callable(kill):
                kill()
            run(folder, save_seconds=0.0 if killed % 2 else 300.0, amp=amp)
            os._exit(0)
        if isinstance(kill, float):
            time.sleep(kill)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
    return killed


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    random.seed(0)
    disturb(folder / "undisturbed", [])
    started = time.monotonic()
    disturb(folder / "again", [])
    seconds = time.monotonic() - started
    steps = [lambda n=n: killed_at_step(n) for n in (0, 2, 4, 7, 7, 11, 15)]
    writes = [lambda n=n, w=w: killed_in_write(n, whole=w) for n, w in ((0, False), (1, True), (1, False), (0, True))]
    assert disturb(folder / "steps", steps) == len(steps)
    assert disturb(folder / "writes", writes) == len(writes)
    moments = sorted(random.uniform(0, seconds) for _ in range(8))  # the first comes early: it lands on any machine
    assert disturb(folder / "moments", moments) >= 1
    disturb(folder / "undisturbed-bf16", [], amp="bf16")
    assert disturb(folder / "bf16", steps[1:4], amp="bf16") == 3


def in_two_processes(folder: Path, last: str) -> None:
    """What torchrun's starter and both processes run; the second of them dies before this step, if it is one."""
    options = ComputeOptions(device="cpu", processes=2)
    if is_launcher(options):
        launch("tests.rsd.training.test_resume", sys.argv[1:], options)
        return
    set_up(options)
    if parallel.rank() == 1:
        killed_at_step(int(last))
    run(folder, save_seconds=0.0)
    parallel.leave()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    program = "import sys, pathlib; from tests.rsd.training.test_resume import main; main(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert " of 4 steps\n" in done.stderr  # some went on inside an epoch
    return folder


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("how", ["again", "steps", "writes", "moments"])
def test_a_killed_run_ends_as_an_undisturbed_one(runs, how):
    undisturbed, disturbed = (torch.load(runs / name / "result.pt", weights_only=True) for name in ("undisturbed", how))
    assert undisturbed["stepper"]["average"]
    for part in undisturbed:
        assert same(undisturbed[part], disturbed[part]), part


def test_so_does_a_run_in_mixed_precision(runs):
    undisturbed, disturbed = (
        torch.load(runs / name / "result.pt", weights_only=True) for name in ("undisturbed-bf16", "bf16")
    )
    assert all(same(undisturbed[part], disturbed[part]) for part in undisturbed)


def test_the_log_is_cut_back_on_resume(runs):
    for how in ("undisturbed", "steps", "moments"):
        lines = (runs / how / "logs" / "t.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["epoch", "1.0", "2.0", "3.0", "4.0"]


def ended(folder: Path, *ways: tuple[str, int]) -> list[tuple[str, int]]:
    """Messages and exit statuses of trainings in two processes, one of which dies before a step; all at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.rsd.training.test_resume", str(folder / name), str(last)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, last in ways
    ]
    try:
        return [(process.communicate(timeout=400)[1], process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
def test_so_does_a_run_that_lost_a_process(tmp_path):
    (_, whole), (message, lost) = ended(tmp_path, ("undisturbed", STEPS), ("killed", 6))
    assert (whole, lost) == (0, 1)
    assert "process 2 of 2 was killed (SIGKILL)" in message
    ((message, status),) = ended(tmp_path, ("killed", STEPS))
    assert status == 0
    assert "t: resumed after epoch 1 of 4 and " in message
    undisturbed, resumed = (
        torch.load(tmp_path / name / "result.pt", weights_only=True) for name in ("undisturbed", "killed")
    )
    assert all(same(undisturbed[part], resumed[part]) for part in undisturbed)


if __name__ == "__main__":
    stage(lambda: in_two_processes(Path(sys.argv[1]), sys.argv[2]))
