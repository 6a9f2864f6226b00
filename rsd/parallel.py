"""Several processes that work on one batch."""

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # Every process computes the same loss from the gathered batch. The sum is one gradient per process,
        # which DistributedDataParallel's mean turns into that of one process with the whole batch.
        (whole,) = gradients
        total = whole.contiguous().clone()
        distributed.all_reduce(total)
        size = len(total) // distributed.get_world_size()
        return total.narrow(0, distributed.get_rank() * size, size)


def gather(own: Tensor) -> Tensor:
    """The whole batch `[processes * B, ...]`, from each process's share `[B, ...]`, with gradients for each.

    A lone process gets its own tensor back. All shares are of one size.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return own
    return _Gather.apply(own)
