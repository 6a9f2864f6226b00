"""`rsd_loss` against the textbook version: time and memory of forward and backward.

    python -m benchmarks.rsd_loss

A minute on one core. Both run turn by turn in one process, in float32 on one CPU thread, with a gradient
for the student only. Times are medians with quartiles, "faster" is the median of the ratios within a turn.

Memory is the peak of what PyTorch's CPU allocator holds during forward and backward beyond what it held before
(the two inputs), from the allocations and frees that torch.profiler records; the student's gradient is in it.
Scratch buffers inside the BLAS library are not PyTorch's and are not seen, for either version. It takes one
call, because it is the same each time.
"""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.command import command
from benchmarks.interleaved import interleaved, markdown, spread
from rsd.methods.rsd import rsd_loss

# (B, D): how many times faster it is meant to be, and what share of the memory it may take (None: on record only).
TARGETS: dict[tuple[int, int], tuple[float, float | None]] = {
    (128, 768): (6.0, None),
    (128, 2048): (20.0, 0.25),
    (256, 768): (3.0, None),
    (1024, 768): (1.3, None),
}

Loss = Callable[[Tensor, Tensor], Tensor]


def textbook(student: Tensor, teacher: Tensor, kappa: float = 0.01) -> Tensor:
    """The equation as it is written: the whole D x D matrix, and a boolean mask for what is off its diagonal."""
    z_s = (student - student.mean(0)) / (student.std(0, correction=0) + 1e-5)
    z_t = (teacher - teacher.mean(0)) / (teacher.std(0, correction=0) + 1e-5)
    p = z_t.T @ z_s / len(z_s)
    diagonal = torch.eye(len(p), dtype=torch.bool)
    return (p[diagonal] - 1).square().sum() + kappa * p[~diagonal].square().sum()


def step(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    student.grad = None
    loss(student, teacher).backward()


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that PyTorch's CPU allocator held during `run`, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def compare(batch: int, width: int, *, rounds: int) -> dict[str, str]:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, width, generator=generator).requires_grad_()
    teacher = torch.randn(batch, width, generator=generator)
    versions: dict[str, Loss] = {"textbook": textbook, "rsd_loss": rsd_loss}
    runs = {name: partial(step, loss, student, teacher) for name, loss in versions.items()}
    times = interleaved(runs, rounds=rounds, warmup=5)
    memory = {}
    for name, run in runs.items():
        student.grad = None
        memory[name] = peak_bytes(run)
    faster, share = TARGETS[batch, width]
    return {
        "B": str(batch),
        "D": str(width),
        **{f"{name}, ms": spread(1000 * times[name]) for name in versions},
        "faster": spread(times["textbook"] / times["rsd_loss"]),
        "target": f"{faster:g}x",
        **{f"{name}, MB": f"{memory[name] / 1e6:.2f}" for name in versions},
        "share of memory": f"{memory['rsd_loss'] / memory['textbook']:.3f}",
        "largest share": "-" if share is None else f"{share:g}",
    }


def main(rounds: int = 100) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would report its own comings and goings
    print(markdown([compare(*shape, rounds=rounds) for shape in TARGETS]))


if __name__ == "__main__":
    command(main, __doc__)
