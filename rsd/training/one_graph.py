"""A whole step on a GPU as one CUDA graph: its many small kernels are launched at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError
from rsd.machine.parallel import processes
from rsd.methods.base import Distiller
from rsd.models.outputs import Outputs
from rsd.training.recipe import Recipe

Step = Callable[[Tensor, Tensor, Tensor, Outputs | None, bool], dict[str, Tensor]]
"""Forward, backward and update: views, targets, image numbers, the teacher's outputs, whether it is logged; scalars."""
WARM_UP = 3  # steps that run kernel by kernel first, so that every buffer and every algorithm is there


def obstacle(
    task: Distiller, recipe: Recipe, compute: ComputeOptions, optimizer: Optimizer, *, live_teacher: bool
) -> str | None:
    """Why a step cannot be one graph, as the part of a sentence after "found"; None if nothing is in the way."""
    cases = {
        "no CUDA device": task.device.type != "cuda",
        "several processes": processes() > 1,
        "a batch in parts (recipe.accumulation)": recipe.accumulation > 1,
        "compute.amp fp16, whose scale is decided outside": compute.amp == "fp16",
        "compute.compile, which has graphs of its own": compute.compile,
        "a live teacher (views.count 0)": live_teacher,
        f"the method '{task.method}', whose steps differ": not task.capturable,
        f"{recipe.optimizer}, an optimizer without a kernel for all weights": not optimizer.defaults.get("fused"),
    }
    return next((reason for reason, holds in cases.items() if holds), None)


class OneGraph:
    """Runs `step` kernel by kernel at first, then as a graph.

    Args:
        step: always called with tensors of the same shapes. Whatever it reads must lie on the device and stay in its
            place; the optimiser's learning rates may change from call to call.

    Raises:
        UserError: by a call: the step cannot be recorded. What PyTorch leaves then is no state to go on from.
    """

    def __init__(self, step: Step, optimizer: Optimizer) -> None:
        self.step, self.optimizer = step, optimizer
        self.warm_up = WARM_UP
        self.pool: Any = None
        """The memory that all graphs share: one runs at a time, and its results are copied."""
        self.inputs: list[Tensor] = []
        self.rates: list[Tensor] = []
        self.graphs: dict[bool, tuple[Callable[[], Tensor], list[str]]] = {}
        """With and without what is only logged: the replay, and the names of what it gives."""

    def __call__(
        self, raw: Tensor, target: Tensor, number: Tensor, teacher: Outputs | None, logged: bool
    ) -> dict[str, Tensor]:
        now = [raw, target, number, *(teacher or ())]
        groups = self.optimizer.param_groups
        self.rates = self.rates or [torch.tensor(group["lr"], device=raw.device) for group in groups]
        for rate, group in zip(self.rates, groups, strict=True):
            rate.fill_(group["lr"])
        if self.warm_up:
            self.warm_up -= 1
            with _aside(raw.device):
                return self._by_kernels(now, logged)
        if logged not in self.graphs:
            self._record(now, logged)
        for kept, value in zip(self.inputs, now, strict=True):
            kept.copy_(value, non_blocking=True)
        replay, keys = self.graphs[logged]
        return dict(zip(keys, replay().clone().unbind(), strict=True))

    def _record(self, now: list[Tensor], logged: bool) -> None:
        self.inputs = self.inputs or [tensor.clone() for tensor in now]
        keys: list[str] = []

        def body() -> Tensor:
            terms = self._by_kernels(self.inputs, logged, recorded=True)
            keys[:] = terms
            return torch.stack([value.to(terms["loss"].dtype) for value in terms.values()])

        if self.pool is None and now[0].is_cuda:
            self.pool = torch.cuda.graph_pool_handle()
        try:
            self.graphs[logged] = record(body, self.pool), keys
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"expected a step that one CUDA graph can hold, found one that it cannot ({reason}); set "
                "compute.cuda_graph to false"
            ) from error

    def _by_kernels(self, inputs: list[Tensor], logged: bool, *, recorded: bool = False) -> dict[str, Tensor]:
        raw, target, number, *outputs = inputs
        with self._rates_on_the_device(capturable=recorded):
            return self.step(raw, target, number, Outputs(*outputs) if outputs else None, logged)

    @contextmanager
    def _rates_on_the_device(self, *, capturable: bool) -> Iterator[None]:
        """A graph would keep numbers as they are; from these tensors it reads what they hold at each replay. Steps
        before it read them, too: as float32 a rate has other bits, and a resumed run begins with such steps again.
        """
        before: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "capturable") if key in group} for group in self.optimizer.param_groups
        ]
        try:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = capturable and rate.is_cuda
            yield
        finally:
            for group, values in zip(self.optimizer.param_groups, before, strict=True):
                group |= values


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Work on a stream of its own, as PyTorch asks for before a recording."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def record(body: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
    """A call that runs on the GPU what `body` does, and gives its result, which the next call overwrites.

    Args:
        pool: of memory, from `torch.cuda.graph_pool_handle`.

    Raises:
        RuntimeError: `body` waits for the GPU, or does what no graph can hold.
    """
    graph = torch.cuda.CUDAGraph()
    # Only this thread is watched: others may pin memory meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = body()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
