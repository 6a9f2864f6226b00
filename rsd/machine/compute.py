"""Where numbers are computed: device, threads, kernels."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from rsd.machine.errors import UserError
from rsd.machine.options import Options
from rsd.machine.parallel import join


class ComputeOptions(Options):
    """`compute` of params.yaml."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU if there is one."""
    processes: int = Field(1, gt=0, le=1024)
    """Processes that train together on one batch, over all machines, started by torchrun. They share the embedding and
    the evaluation, too. With `cuda` each has a GPU of its own."""
    nodes: int = Field(1, gt=0, le=1024)
    """Machines over which these processes are spread evenly, started by `rsd nodes`."""
    workers: int = Field(0, ge=0, le=1024)
    """Extra processes that prepare batches, for each process; they do not change a pixel."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """Automatic mixed precision of student, scaffold and live teacher; fp16 scales the loss. Losses, weights and
    validation stay float32."""
    channels_last: bool = False
    """Memory format of feature maps; faster for CNNs on GPUs with amp."""
    compile: bool = False
    """`torch.compile` the modules that are trained. The bits then depend on the compiler, too."""
    cuda_graph: bool = False
    """Run a whole training step on a GPU as one CUDA graph, where the teacher's outputs are stored; with several
    processes, a batch in parts, fp16 or `compile` it runs kernel by kernel, and says so."""
    deterministic: bool = True
    """Train on a GPU with kernels that give the same bits in every run; false takes the fastest kernels."""
    threads: int = Field(1, gt=0, le=1024)
    """CPU threads of a stage. Another count gives other bits. The default is 1, because stages that run side by side
    become very slow when they share cores."""

    def decisive(self) -> dict[str, bool | int | str]:
        """The settings that change the numbers of a training: all but `nodes` and `workers`. The stages depend on the
        same."""
        return self.model_dump(exclude={"nodes", "workers"})

    @model_validator(mode="after")
    def _shares_processes_evenly(self) -> Self:
        if self.processes % self.nodes:
            raise ValueError(
                f"expected compute.processes to be a multiple of the {self.nodes} nodes (compute.nodes), found "
                f"{self.processes}; it is the total over all nodes"
            )
        return self


def on_this_machine(options: ComputeOptions) -> ComputeOptions:
    """The options for work whose numbers depend on no process count: this node's share, at most one per GPU here."""
    own = options.model_copy(update={"processes": options.processes // options.nodes, "nodes": 1})
    if not _takes_cuda(own):
        return own
    return own.model_copy(update={"processes": max(1, min(own.processes, torch.cuda.device_count()))})


def set_up(options: ComputeOptions) -> torch.device:
    """Set threads and kernels, join the other processes, and return the device of this one.

    Training on a GPU is stricter about its kernels; see `training_kernels`.

    Raises:
        UserError: there is no CUDA device for `cuda`, no C++ compiler for `compile`, or torchrun has started another
            number of processes.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a CUDA device, found none; set compute.device to auto or cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for to be deterministic
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    cuda = _takes_cuda(options)
    # PyTorch can fill fresh memory with NaN. On a GPU that takes half of all kernels. It is worth it only where a
    # library leaves memory unwritten, as oneDNN does in bf16.
    torch.utils.deterministic.fill_uninitialized_memory = options.amp != "none" and not cuda  # type: ignore[attr-defined]
    compilers = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    if options.compile and not cuda and not any(map(shutil.which, compilers)):
        raise UserError("expected a C++ compiler for compute.compile, found none; install g++, or set it to false")
    return join(torch.device("cuda" if cuda else "cpu"), options.processes)


@contextmanager
def training_kernels(options: ComputeOptions, device: torch.device) -> Iterator[None]:
    """Use the kernels that `deterministic` asks for in forward and backward passes on a GPU.

    `set_up` asks for deterministic kernels with `warn_only`, which exempts the backward pass of attention: its bits
    differ from run to run. The settings are global to the process and are restored at the end.

    Raises:
        UserError: an operation has no deterministic kernel.
    """
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(options.deterministic)
    torch.backends.cudnn.benchmark = not options.deterministic
    try:
        yield
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        raise UserError(
            "expected kernels that give the same bits in every run, found an operation of the model without one on a "
            f"GPU ({str(error).partition(', but')[0]}); set compute.deterministic to false, and two runs will differ"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]


def _takes_cuda(options: ComputeOptions) -> bool:
    return options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
