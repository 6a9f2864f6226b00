"""Several processes that work on one batch. A lone process is a group of one: each function is then free."""

import os
import threading
import time
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx

from rsd.machine.errors import UserError

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it gives up, where torchrun has not ended it before."""


def join(device: torch.device, processes: int) -> torch.device:
    """Join the processes that torchrun has started; the device of this one, with `cuda` a GPU of its own.

    Raises:
        UserError: torchrun has started another number, or there are fewer GPUs than processes on this machine.
    """
    if "RANK" not in os.environ:
        return device
    if (started := int(os.environ["WORLD_SIZE"])) != processes:
        raise UserError(
            f"expected {processes} processes (compute.processes), found that torchrun has started {started}; make them "
            "equal, since the count belongs to the run's record"
        )
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UserError(
                f"expected a GPU for each process on this machine, found {torch.cuda.device_count()}; lower "
                "compute.processes, or set compute.device to cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return device


def _end_with(parent: int) -> None:
    # torchrun ends its processes unless it is killed itself; they must not go on beside the run that resumes.
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def leave() -> None:
    """End the work together: every process waits for all others."""
    if processes() > 1:
        distributed.barrier()
        distributed.destroy_process_group()
        _unhurried.cache_clear()


def wait(*, patiently: bool = False) -> None:
    """Go on when every process has come here.

    Args:
        patiently: without a limit of time, on one machine; it still ends with an error where a process dies.
    """
    if processes() > 1:
        distributed.barrier(_unhurried() if patiently else None)


@cache
def _unhurried() -> Any:
    # Of gloo on GPUs, too: it sees the connection to a process that dies break off, where NCCL waits for a time.
    return distributed.new_group(backend="gloo", timeout=timedelta(days=365))


def processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if processes() > 1 else 0


def leads() -> bool:
    """Whether this is the one process that writes and prints."""
    return rank() == 0


def own_share(count: int) -> slice:
    """This process's run of `count` things in order; shares differ by one at most, the first are the larger."""
    start, stop = (count * number // processes() for number in (rank(), rank() + 1))
    return slice(start, stop)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        return torch.cat(all_of(own))

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # Every process computes the same loss from the gathered batch. The sum is one gradient per process,
        # which DistributedDataParallel's mean turns into that of one process with the whole batch.
        (whole,) = gradients
        total = whole.contiguous().clone()
        distributed.all_reduce(total)
        size = len(total) // distributed.get_world_size()
        return total.narrow(0, distributed.get_rank() * size, size)


@torch.compiler.disable
def gather(own: Tensor) -> Tensor:
    """The whole batch `[processes * B, ...]`, from each process's share `[B, ...]`, with gradients for each.

    A lone process gets its own tensor back. All shares are of one size. What is half-precise comes back as float32,
    since gradients are summed over the processes.
    """
    if processes() == 1:
        return own
    return _Gather.apply(own.float() if own.dtype in (torch.float16, torch.bfloat16) else own)


def all_of(own: Tensor) -> list[Tensor]:
    """Every process's tensor, in their order, on the device of `own`; all are of one shape. No gradients."""
    if processes() == 1:
        return [own]
    sent = own.detach().to(_wire()).contiguous()
    parts = [torch.empty_like(sent) for _ in range(processes())]
    distributed.all_gather(parts, sent)
    return [part.to(own.device) for part in parts]


def mean(own: Tensor) -> Tensor:
    """The mean over the processes, the same in each. No gradients."""
    return own if processes() == 1 else torch.stack(all_of(own)).mean(dim=0)


def from_leader(module: nn.Module) -> None:
    """Give the module's buffers the values that they have in the leading process."""
    if processes() == 1:
        return
    for buffer in module.buffers():
        sent = buffer.detach().to(_wire())
        distributed.broadcast(sent, 0)
        buffer.copy_(sent)


def _wire() -> torch.device:
    """Where tensors must lie to be sent."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
