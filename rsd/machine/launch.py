"""A stage in several processes, started by torchrun on this machine."""

import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from rsd.machine.compute import ComputeOptions
from rsd.machine.errors import UserError


def is_launcher(options: ComputeOptions) -> bool:
    """Whether this process is the one that starts the others, and does none of the work."""
    return options.processes > 1 and "RANK" not in os.environ


def launch(module: str, arguments: Sequence[str], options: ComputeOptions) -> None:
    """Run `python -m module arguments` in `options.processes` processes, and wait for them.

    The first that fails ends all; what it said is raised here, once (see `stages.run`).

    Raises:
        UserError: a process failed.
        KeyboardInterrupt: this process was told to end, and has ended the others.
    """
    # Seconds to import, and only a run of several processes pays.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its tables say less than the sentence below
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # Or DistributedDataParallel says that it need not look for unused parameters (see Distiller.prepare_distributed).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    count = ["--standalone", "--nproc-per-node", str(options.processes)]
    try:
        run(parse_args([*count, "-m", module, *arguments]))
    except SignalException as ended:
        raise KeyboardInterrupt from ended
    except ChildFailedError as error:
        failures = error.failures
        # A process that lost another one fails too, and has written down no sentence of its own.
        for number in sorted(failures, key=lambda number: (not _said(failures[number]), failures[number].timestamp)):
            raise UserError(_said(failures[number]) or _died(number, failures[number].exitcode, options)) from error


def _said(failure: Any) -> str:
    """The sentence that a failed process has written down; empty where it had none."""
    return str(failure.error_file_data["message"]) if os.path.isfile(failure.error_file) else ""


def _died(number: int, status: int, options: ComputeOptions) -> str:
    how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
    memory = "; if it was for want of memory, raise recipe.accumulation" if status == -signal.SIGKILL else ""
    return (
        f"expected {options.processes} processes to finish, found that number {number} {how}{memory}; "
        "run the same command again to go on from the last checkpoint"
    )
