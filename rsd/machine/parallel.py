"""Several processes that work on one batch. In a lone process every function here costs nothing."""

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

TIMEOUT = timedelta(minutes=10)  # how long a process waits for the others, unless torchrun ends it first


def join(device: torch.device, processes: int) -> torch.device:
    """Join torchrun's processes; this one's device, its own GPU with `cuda`. UserError for a wrong number of either."""
    if "RANK" not in os.environ:
        return device
    if (started := int(os.environ["WORLD_SIZE"])) != processes:
        raise UserError(
            f"expected {processes} processes (compute.processes), found {started} by torchrun; make the two equal"
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
    # torchrun ends its processes, but not when it is killed. They must not run on beside the one that resumes.
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def leave() -> None:
    """Leave the group when every process has come here."""
    if processes() > 1:
        distributed.barrier()
        distributed.destroy_process_group()
        _unhurried.cache_clear()


def wait(*, patiently: bool = False) -> None:
    """Go on when every process has come here; `patiently` without a time limit, though a death is still an error."""
    if processes() > 1:
        distributed.barrier(_unhurried() if patiently else None)


@cache
def _unhurried() -> Any:
    # gloo on GPUs, too: it notices at once that a process has died, where NCCL waits for its timeout.
    return distributed.new_group(backend="gloo", timeout=timedelta(days=365))


def processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if processes() > 1 else 0


def leads() -> bool:
    """Whether this is the one process that writes and prints."""
    return rank() == 0


def own_share(count: int) -> slice:
    """The consecutive share of `count` items that belongs to this process; shares differ by one at most."""
    start, stop = (count * number // processes() for number in (rank(), rank() + 1))
    return slice(start, stop)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        return torch.cat(all_of(own))

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # Every process computes the same loss from the gathered batch. DistributedDataParallel takes the mean over the
        # processes, so the sum here gives the gradient of one process with the whole batch.
        (whole,) = gradients
        total = whole.contiguous().clone()
        distributed.all_reduce(total)
        size = len(total) // distributed.get_world_size()
        return total.narrow(0, distributed.get_rank() * size, size)


@torch.compiler.disable
def gather(own: Tensor) -> Tensor:
    """The whole batch `[processes * B, ...]` from the equal share `[B, ...]` of each process, with gradients.

    A lone process gets its own tensor back. Half precision becomes float32, because gradients are summed over the
    processes.
    """
    if processes() == 1:
        return own
    return _Gather.apply(own.float() if own.dtype in (torch.float16, torch.bfloat16) else own)


def all_of(own: Tensor) -> list[Tensor]:
    """The tensors of all processes, by rank, on the device of `own`; all have one shape. No gradients."""
    if processes() == 1:
        return [own]
    message = own.detach().to(_wire()).contiguous()
    parts = [torch.empty_like(message) for _ in range(processes())]
    distributed.all_gather(parts, message)
    return [part.to(own.device) for part in parts]


def mean(own: Tensor) -> Tensor:
    """The mean over the processes, equal in each. No gradients."""
    return own if processes() == 1 else torch.stack(all_of(own)).mean(dim=0)


def bytes_from_leader(own: bytes | None) -> bytes | None:
    """The leading process's bytes, or its None. It reaches processes of machines that do not see its files."""
    if processes() == 1:
        return own
    size = torch.tensor([-1 if own is None else len(own)], device=_wire())
    distributed.broadcast(size, 0)
    if size.item() < 0:
        return None
    content = torch.empty(int(size), dtype=torch.uint8, device=_wire())
    if leads() and own:
        content.copy_(torch.frombuffer(bytearray(own), dtype=torch.uint8))
    distributed.broadcast(content, 0)
    return content.cpu().numpy().tobytes()


def from_leader(module: nn.Module) -> None:
    """Set the module's buffers to their values in the leading process."""
    if processes() == 1:
        return
    for buffer in module.buffers():
        message = buffer.detach().to(_wire())
        distributed.broadcast(message, 0)
        buffer.copy_(message)


def _wire() -> torch.device:
    """The device from which tensors can be sent."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
