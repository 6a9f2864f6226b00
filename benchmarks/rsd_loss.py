"""`rsd_loss` against the textbook version, and against its own forward pass as autograd differentiates it.

    python -m benchmarks.rsd_loss

Two minutes on one core: time and memory of forward and backward. All run turn by turn in one process, in float32 on one
CPU thread, with a gradient for the student only. Times are medians with quartiles, "faster" is the median of the ratios
within a turn, beside the least that it is meant to be.

Memory is the peak of what PyTorch's CPU allocator holds during forward and backward beyond what it held before
(the two inputs), from the allocations and frees that torch.profiler records; the student's gradient is in it.
Scratch buffers inside the BLAS library are not PyTorch's and are not seen, for either version. It takes one
call, because it is the same each time.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.command import command
from benchmarks.interleaved import interleaved, markdown, spread
from rsd.methods.rsd import rsd_loss


class Target(NamedTuple):
    """What the loss is held to at a size."""

    textbook: float
    """Times as fast."""
    autograd: float
    memory: float | None
    """Share of the textbook version's; None: on record only."""


TARGETS = {
    (128, 768): Target(6.0, 1.15, None),
    (128, 2048): Target(20.0, 1.4, 0.25),
    (256, 768): Target(3.0, 1.15, None),
    (1024, 768): Target(1.3, 1.15, None),
}
"""By B and D."""

Loss = Callable[[Tensor, Tensor], Tensor]


def textbook(student: Tensor, teacher: Tensor, kappa: float = 0.01) -> Tensor:
    """The equation as it is written: the whole D x D matrix, and a boolean mask for what is off its diagonal."""
    z_s = (student - student.mean(0)) / (student.std(0, correction=0) + 1e-5)
    z_t = (teacher - teacher.mean(0)) / (teacher.std(0, correction=0) + 1e-5)
    p = z_t.T @ z_s / len(z_s)
    diagonal = torch.eye(len(p), dtype=torch.bool)
    return (p[diagonal] - 1).square().sum() + kappa * p[~diagonal].square().sum()


def centre(z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`z` with zero mean along `dim`, and its biased standard deviation there, kept as a dimension of 1.

    What is constant but for rounding becomes zeros without a gradient, with a deviation of 1: the
    definition's gradient is unbounded there, noise that overflows in fp16.
    """
    mean = z.mean(dim=dim, keepdim=True)
    centred = z - mean
    variance = centred.square().mean(dim=dim, keepdim=True)
    varies = ~(variance <= (8 * torch.finfo(z.dtype).eps * mean).square())  # NaN varies, so that it is noticed
    return torch.where(varies, centred, 0.0), torch.where(varies, variance, 1.0).sqrt()  # sqrt has no gradient at 0


def by_autograd(student: Tensor, teacher: Tensor, kappa: float = 0.01) -> Tensor:
    """The B x B or the D x D form, each step of it differentiated by autograd."""
    (z_s, deviation_s), (z_t, deviation_t) = centre(student, dim=0), centre(teacher, dim=0)
    z_s, z_t = z_s / (deviation_s + 1e-5), z_t / (deviation_t + 1e-5)
    batch, width = z_s.shape
    diagonal = (z_t * z_s).mean(dim=0)
    if 2 * batch < width:
        squares = ((z_t @ z_t.T) * (z_s @ z_s.T)).sum() / batch**2
    else:
        squares = (z_t.T @ z_s / batch).square().sum()
    return (diagonal - 1).square().sum() + kappa * (squares - diagonal.square().sum())


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
    versions: dict[str, Loss] = {"textbook": textbook, "autograd": by_autograd, "rsd_loss": rsd_loss}
    runs = {name: partial(step, loss, student, teacher) for name, loss in versions.items()}
    times = interleaved(runs, rounds=rounds, warmup=5)
    memory = {}
    for name, run in runs.items():
        student.grad = None
        memory[name] = peak_bytes(run)
    target = TARGETS[batch, width]
    return {
        "B": str(batch),
        "D": str(width),
        **{f"{name}, ms": spread(1000 * times[name]) for name in versions},
        "faster than textbook": f"{spread(times['textbook'] / times['rsd_loss'])}; {target.textbook:g}",
        "faster than autograd": f"{spread(times['autograd'] / times['rsd_loss'])}; {target.autograd:g}",
        **{f"{name}, MB": f"{memory[name] / 1e6:.2f}" for name in versions},
        "share of the textbook's memory": f"{memory['rsd_loss'] / memory['textbook']:.3f}"
        + ("" if target.memory is None else f"; at most {target.memory:g}"),
    }


def main(rounds: int = 100) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would report its own comings and goings
    print(markdown([compare(*shape, rounds=rounds) for shape in TARGETS]))


if __name__ == "__main__":
    command(main, __doc__)
